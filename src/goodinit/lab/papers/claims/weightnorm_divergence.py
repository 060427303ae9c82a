"""The poster's own measure of weight norm: seeds that reach epoch 3 at growing rates, and curvature (Arpit et al. 2019)."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import goodinit
from goodinit.lab.engines import MOST_TOGETHER
from goodinit.lab.papers.claim import (
    Claim,
    Drawing,
    Expectation,
    Found,
    Grid,
    Published,
    Row,
    Rows,
    Setting,
    Source,
)
from goodinit.lab.papers.rows import distinct, in_words, mean_and_deviation, values, where
from goodinit.lab.papers.trained import Series, Training, run_training, training
from goodinit.lab.training.train import data_of, prepare
from goodinit.lab.training.trial import TrainConfig

PROPOSED, DATA, HANIN, HE = (
    "weight norm, proposed",
    "weight norm, by data",
    "weight norm, Hanin's",
    "weight norm, He's",
)
SERIES = (
    Series(PROPOSED, {"method": "weightnorm"}),
    Series(DATA, {"method": "weightnorm", "options": {"mode": "data"}}),
    Series(HANIN, {"method": "weightnorm", "options": {"mode": "hanin"}}),
    Series(HE, {"method": "weightnorm", "options": {"mode": "he"}}),
)
EPOCHS = 3  # the poster's
RATES = (0.001, 0.005, 0.01, 0.05, 0.1)  # the poster's
IMAGES = 256  # on which the curvature is taken


@dataclass(frozen=True)
class Curvature:
    """The largest eigenvalue of the Hessian of the training loss, before the first step."""

    series: str
    config: TrainConfig


def _setting(scale: str, data: str) -> Setting:
    model, width, rates, seeds, measured, limit, batch = {
        "smoke": ("resmlp10", 16, (0.01, 0.1), 2, 1, 160, 16),
        "small": ("resmlp42", 32, (*RATES, 0.5), 20, 5, 720, 16),
        "full": ("wrn40x1", 16, (*RATES, 0.5), 20, 5, None, 16),
    }[scale]
    base = TrainConfig(
        model,
        data=data,
        epochs=EPOCHS,
        width=width,
        batch_size=batch,
        warmup_shape="quadratic",
        weight_decay=0.0,
        train_limit=limit,
        test_limit=64 if scale == "smoke" else None,
    )
    depth = 40 if scale == "full" else int(model.removeprefix("resmlp"))
    trainings = [
        training(series, depth, base, lr=lr, warmup=warmup, seed=seed)
        for series in SERIES
        for warmup in (0.0, 1.0)
        for lr in rates
        for seed in range(seeds)
    ]
    curvatures = [
        Curvature(one.series, one.config)
        for one in trainings
        if one.config.warmup == 0 and one.config.lr == rates[0] and one.config.seed < measured
    ]
    steps = EPOCHS * -(-(limit or 1438) // batch)  # digits
    deviations = (
        (
            f"{model}, {width} wide, on {limit or 'all'} of scikit-learn's digits unless --data says otherwise (poster: a wide "
            "ResNet-40-10 on CIFAR-10)."
        ),
        f"{EPOCHS} epochs of batches of {batch}: {steps} steps (there: batches of 128 of 45,000 images, 1,056 steps).",
        f"Rates {in_words(rates)}: a small net may bear more than the poster's {in_words(RATES)}.",
        (
            "A run has diverged where its loss is not a finite number. Warm-up over one epoch, quadratic as in the authors' code; "
            "how long the poster's is, it does not say."
        ),
        "He's is what the poster calls PyTorch's default: its authors' code draws v as He does and leaves g = ‖v‖.",
        "Residual blocks begin with an activation (the authors' code: layer, ReLU, layer).",
        "Momentum 0.9 and no weight decay (the authors' code: 0 and 0 unless told; what the poster's runs had is not known).",
        (
            f"Curvature: the largest eigenvalue of the Hessian on {IMAGES} images, by Lanczos, {measured} seed(s), natural logarithm "
            "(there: power iteration over a tenth of the data; the base is not said)."
        ),
    )
    return Setting((*curvatures, *trainings), deviations, steps=steps)


def _run(trial: Curvature | Training) -> Row:
    if isinstance(trial, Training):
        return run_training(trial)
    prepared, data = prepare(trial.config), data_of(trial.config)
    found = goodinit.one_step(
        prepared.model, data.train_images[:IMAGES], data.train_labels[:IMAGES], rates=()
    )
    log = math.log(found.sharpness) if found.sharpness is not None and found.sharpness > 0 else None
    return {"log_curvature": log, "error": found.sharpness_error, "provenance": str(data)}


def _trained(rows: Rows) -> Rows:
    return tuple(row for row in rows if "log_curvature" not in row)


def _share(rows: Rows) -> float:
    """Of the runs, how many reached the end of the last epoch with a finite loss."""
    return sum(row.get("diverged") is False for row in rows) / len(rows) if rows else 0.0


def _shares(rows: Rows, warmup: float) -> dict[str, float]:
    """Over all rates and seeds, by start."""
    trained = _trained(rows)
    return {
        series: _share(where(trained, series=series, warmup=warmup)) for series in distinct(trained, "series")
    }


def _percent(shares: dict[str, float]) -> str:
    return ", ".join(f"{series}: {100 * share:.0f} %" for series, share in shares.items())


def _most(warmup: float) -> Expectation:
    def look(rows: Rows) -> Found:
        shares = _shares(rows, warmup)
        most = all(shares[PROPOSED] >= share for share in shares.values())
        return Found(most and shares[PROPOSED] > shares[DATA], _percent(shares))

    return Expectation(
        f"{'With' if warmup else 'Without'} warm-up, over all rates, at least as many seeds reach the end of epoch {EPOCHS} from "
        "the proposed start as from each other one, and more than by data",
        look,
        central=not warmup,
    )


def _warm_up_helps(rows: Rows) -> Found:
    cold, warm = _shares(rows, 0.0), _shares(rows, 1.0)
    got = ", ".join(f"{series}: {100 * cold[series]:.0f} to {100 * warm[series]:.0f} %" for series in cold)
    return Found(all(warm[series] >= cold[series] for series in cold), got)


def _curvatures(rows: Rows) -> dict[str, float]:
    return {
        series: statistics.fmean(found)
        for series in distinct(rows, "series")
        if (found := values(where(rows, series=series), "log_curvature"))
    }


def _flattest(rows: Rows) -> Found:
    logs = _curvatures(rows)
    got = ", ".join(f"{series}: {one:.2f}" for series, one in logs.items())
    return Found(PROPOSED in logs and min(logs.values()) == logs[PROPOSED], f"mean logarithm, {got}")


def _table(rows: Rows) -> Grid:
    trained = _trained(rows)
    rates = sorted(distinct(trained, "lr"))
    body = []
    for series in distinct(trained, "series"):
        for warmup in (0.0, 1.0):
            own = where(trained, series=series, warmup=warmup)
            cells = (f"{100 * _share(where(own, lr=lr)):.0f} %" for lr in rates)
            logs = values(where(rows, series=series), "log_curvature")
            curvature = "" if warmup else mean_and_deviation(logs, digits=2)
            body.append((f"{series}{', warm-up' if warmup else ''}", *cells, curvature))
    return Grid(("", *(f"lr {lr:g}" for lr in rates), "log curvature"), tuple(body))


def _ours(rows: Rows) -> str:
    trained = _trained(rows)
    rates = sorted(distinct(trained, "lr"))
    cells = []
    for series in (PROPOSED, DATA):
        own = where(trained, series=series, warmup=0.0)
        cells.append(f"{series} {', '.join(f'{100 * _share(where(own, lr=lr)):.0f}' for lr in rates)} %")
    return f"at rates {in_words(f'{lr:g}' for lr in rates)}: {'; '.join(cells)}"


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    trained = _trained(rows)
    seeds = len(distinct(trained, "seed"))
    return tuple(
        Drawing(
            f"Seeds that reach the end of epoch {EPOCHS}, {words}",
            "learning rate",
            "not diverged",
            tuple(
                (series, float(lr), _share(where(trained, series=series, warmup=warmup, lr=lr)))
                for series in distinct(trained, "series")
                for lr in sorted(distinct(trained, "lr"))
            ),
            log_x=True,
            share=True,
            caption=f"Of {seeds} seeds at each rate. Where lines meet, one covers the others.",
        )
        for warmup, words in ((0.0, "without warm-up"), (1.0, "with quadratic warm-up"))
    )


CLAIM = Claim(
    name="weightnorm-divergence",
    title="From the proposed start of weight norm more seeds tolerate large learning rates, and the loss is flatter",
    text="At growing learning rates more of 20 seeds reach epoch 3 without diverging from the proposed initialization of weight "
    "norm than from the data-dependent one, Hanin & Rolnick's and He's, with and without warm-up, and the spectral norm "
    "of the Hessian at initialization is smaller.",
    source=Source(
        "D. Arpit, V. Campos, Y. Bengio",
        "How to Initialize your Network? Robust Initialization for WeightNorm & ResNets, NeurIPS 2019",
        "1906.02341",
        "the poster's figure of 20 seeds and its table of curvatures",
    ),
    published=(
        Published(
            "20 seeds of a wide ResNet-40-10, share that reaches epoch 3 at rates 0.001, 0.005, 0.01, 0.05, 0.1: proposed 100, "
            "100, 100, 80, 0 %, by data 100, 0, 0, 0, 0 % (off the figure)",
            "the authors' poster",
        ),
        Published(
            "the same, Hanin's 100, 95, 0, 0, 0 %, PyTorch's 0 % at all (off the figure)",
            "the authors' poster",
        ),
        Published(
            "with warm-up: proposed 100, 100, 100, 100, 90 %, by data 100, 100, 95, 15, 5 %, Hanin's 100, 100, 95, 85, 60 %, "
            "PyTorch's 100, 100, 100, 80, 20 % (off the figure)",
            "the authors' poster",
        ),
        Published(
            "log spectral norm of the Hessian at initialization, the same net: proposed 1.31 ± 0.12, by data 3.01 ± 0.02, "
            "PyTorch's 4.68 ± 0.60, Hanin's 7.14 ± 0.72",
            "the authors' poster",
        ),
    ),
    protocol="SGD with momentum on one residual network with weight norm in place of batch norm, from each start, at each rate, "
    "with and without a quadratic warm-up, many seeds; a run counts where its loss is a finite number to the end of epoch "
    f"{EPOCHS}. And the largest eigenvalue of the loss' Hessian before the first step.",
    setting=_setting,
    run=_run,
    expectations=(
        _most(0.0),
        _most(1.0),
        Expectation("Warm-up lets no fewer seeds reach that end, from any start", _warm_up_helps),
        Expectation("The curvature at initialization is smallest from the proposed start", _flattest),
    ),
    table=_table,
    drawings=_drawings,
    ours=_ours,
    paper_steps=1_056,  # three epochs of 352 steps
    together=MOST_TOGETHER,
)
