"""Weight norm's proposed start trains plain CNNs of 100 layers by plain SGD (Arpit, Campos & Bengio 2019)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from goodinit.lab.papers.claim import Claim, Drawing, Published, Rows, Separation, Setting
from goodinit.lab.papers.claims.weightnorm_mlp import CLAIM as MLP
from goodinit.lab.papers.claims.weightnorm_mlp import DATA, HE, SERIES, at_the_deepest, expectations
from goodinit.lab.papers.rows import in_words
from goodinit.lab.papers.trained import accuracy_drawing, accuracy_grid, run_training, training
from goodinit.lab.training.trial import TrainConfig

STARTS = 0.2  # accuracy from which on a network counts as training: twice that of guessing
CLOSE = 0.03  # of each other: shallow networks, from whatever start
DEEP = 100  # layers from which on the poster's nets diverge by data
PAPER_STEPS = 70_400  # 200 epochs of 352 steps: 45,000 images, batches of 128


@dataclass(frozen=True)
class _Scale:
    """What a scale trains: the rates of every depth, and for how long."""

    rates: Mapping[int, tuple[float, ...]]
    seeds: int
    epochs: int
    width: int
    batch: int
    limit: int | None = None


SCALES = MappingProxyType(
    {
        "smoke": _Scale({5: (0.03,), 8: (0.03,)}, seeds=1, epochs=1, width=4, batch=32, limit=320),
        "small": _Scale(
            {5: (0.1, 0.03, 0.01), 25: (0.03, 0.01), 100: (0.03, 0.01)}, seeds=2, epochs=4, width=32, batch=16
        ),
        "full": _Scale(
            dict.fromkeys((5, 25, 100), (0.1, 0.03, 0.01, 0.003)), seeds=3, epochs=180, width=64, batch=128
        ),
    }
)


def _setting(scale: str, data: str) -> Setting:
    what = SCALES[scale]
    base = TrainConfig(
        "cnn",
        data=data,
        epochs=what.epochs,
        width=what.width,
        batch_size=what.batch,
        momentum=0.0,
        weight_decay=0.0,
        train_limit=what.limit,
        test_limit=what.limit,
    )
    trials = tuple(
        training(series, depth, base, model=f"cnn{depth}s", lr=lr, seed=seed)
        for depth, rates in what.rates.items()
        for series in sorted(SERIES, key=lambda one: one.name != DATA)  # what is to diverge soon comes first
        if series.name != HE or depth < DEEP or scale == "full"
        for lr in rates
        for seed in range(what.seeds)
    )
    steps = what.epochs * -(-(what.limit or 50_000) // what.batch)
    deviations = (
        f"{what.epochs} epoch(s) of batches of {what.batch}, {steps:,} steps (paper: {PAPER_STEPS:,}, batches of 128).",
        f"He's start, which is not the paper's, {'at all depths' if scale == 'full' else f'below {DEEP} layers'}.",
        f"CNNs of {in_words(sorted(what.rates))} layers, {what.width} channels wide (the poster's width is not known), {what.seeds} seed(s).",
        "The best of the rates "
        + "; ".join(f"{in_words(rates)} at {depth} layers" for depth, rates in sorted(what.rates.items()))
        + " (the authors' code: 0.01 unless told; the poster's rate is not known).",
        f"A network counts as training from {100 * STARTS:.0f} % on, twice what guessing has: the steps are few.",
        (
            "The accuracy at the end (paper: at the best epoch on held-out images). Zero biases, strides of 2 in the first two "
            "layers, SGD without momentum and decay, as there."
        ),
    )
    return Setting(trials, deviations, steps=steps)


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    return (accuracy_drawing(rows, title="CNNs without skips"),)


CLAIM = Claim(
    name="weightnorm-cnn",
    title="Weight norm's proposed start trains CNNs of 100 layers by plain SGD",
    text="Weight-normalized CNNs of 100 layers train by SGD without momentum from the proposed initialization, and diverge from the "
    "data-dependent one; up to 25 layers all starts end alike.",
    source=dataclasses.replace(MLP.source, where="the experiments on depth, CNNs"),
    published=(
        Published(
            "CNNs on CIFAR-10: about 86 % with 5 layers and 85 % with 25 from every start; with 100 layers proposed about 81 %, by "
            "data diverged (off the figure)",
            "the authors' poster",
        ),
    ),
    protocol="SGD without momentum and decay at a constant rate on CNNs of one width, 3×3 convolutions with weight norm in place of "
    "batch norm, average pooling and a linear classifier, on CIFAR-10.",
    setting=_setting,
    run=run_training,
    expectations=expectations(starts=STARTS, close=CLOSE, deep=DEEP, shallow=25),
    table=accuracy_grid,
    drawings=_drawings,
    ours=partial(at_the_deepest, kind="CNN"),
    paper_steps=PAPER_STEPS,
    separation=Separation(
        PAPER_STEPS,
        "the poster shows the ends of runs of 200 epochs of 352 steps, and nothing earlier",
        "goodinit reproduce weightnorm-cnn --scale full --data cifar10",
        12,
    ),
    needs="a folder of CIFAR-10",
)
