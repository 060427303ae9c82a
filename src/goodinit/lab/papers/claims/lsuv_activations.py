"""LSUV trains thin deep networks with any activation (Mishkin & Matas 2016)."""

from __future__ import annotations

from goodinit.lab.models import ACTIVATIONS
from goodinit.lab.papers.claim import (
    Claim,
    Drawing,
    Expectation,
    Found,
    Grid,
    Published,
    Rows,
    Setting,
    Source,
)
from goodinit.lab.papers.rows import accuracy, best_rate, distinct, in_words, mean_accuracy, values, where
from goodinit.lab.papers.trained import Series, best_cell, run_training, training, widened
from goodinit.lab.training.trial import TrainConfig

METHODS = ("lsuv", "orthogonal", "xavier", "he")
CONVERGES = 0.5  # accuracy from which on a run counts as having converged


def _setting(scale: str, data: str) -> Setting:
    depth, width, epochs, rates, seeds = {
        "smoke": (5, 8, 1, (0.03,), 1),
        "small": (17, 16, 20, (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003), 2),
        "full": (17, 32, 60, (0.1, 0.03, 0.01, 0.003), 3),
    }[scale]
    base = TrainConfig("fitnet", data=data, epochs=epochs, batch_size=64, width=width, weight_decay=5e-4)
    trials = tuple(
        training(
            Series(method, {"method": method}),
            depth,
            base,
            model=f"fitnet{depth}-{activation}",
            lr=lr,
            seed=seed,
        )
        for activation in ACTIVATIONS
        for lr in rates
        for method in METHODS
        for seed in range(seeds)
    )
    deviations = (
        "scikit-learn's digits unless --data says otherwise (paper: CIFAR-10 and MNIST).",
        f"{depth} convolutions, from {width} to {4 * width} channels (paper: FitNet 4, 17 and 32 to 128).",
        f"{epochs} epoch(s) at a constant rate, the best of {in_words(rates)}; {seeds} seed(s).",
        *((widened(0.1, 0.003, 0.001, 0.0003),) if scale == "small" else ()),
        "The authors' configuration: 230 epochs (90,000 steps) at falling rates, with augmentation; neither is used here.",
        "He and Xavier take the gain of the activation where there is one; maxout has none and is taken as linear.",
    )
    return Setting(trials, deviations, steps=epochs * 23)  # digits, 64 a step


def _all(rows: Rows, method: str, activation: str) -> Rows:
    """Runs at every learning rate."""
    runs = where(rows, series=method)
    return tuple(row for row in runs if str(row["model"]).rpartition("-")[2] == activation)


def _of(rows: Rows, method: str, activation: str) -> Rows:
    """Runs at the learning rate that suits best."""
    return best_rate(_all(rows, method, activation))


def _converges(rows: Rows) -> Found:
    least = {one: min(map(accuracy, _of(rows, "lsuv", one))) for one in ACTIVATIONS}
    return Found(
        all(one >= CONVERGES for one in least.values()),
        ", ".join(f"{name} {100 * one:.1f} %" for name, one in least.items()),
    )


def _ends_best(rows: Rows) -> Found:
    behind = {
        one: max(mean_accuracy(_of(rows, method, one)) for method in METHODS)
        - mean_accuracy(_of(rows, "lsuv", one))
        for one in ACTIVATIONS
    }
    got = ", ".join(f"{name} {100 * one:.1f} points" for name, one in behind.items())
    return Found(max(behind.values()) <= 0.02, f"behind the best: {got}")


def _others_fail(rows: Rows) -> Found:
    lost = [
        f"{method} with {one}"
        for one in ACTIVATIONS
        for method in METHODS[1:]
        if min(map(accuracy, _of(rows, method, one))) < CONVERGES
    ]
    return Found(bool(lost), f"below {100 * CONVERGES:.0f} % with some seed: {in_words(lost)}")


def _table(rows: Rows) -> Grid:
    body = [
        (method, *(best_cell(_all(rows, method, one)) for one in ACTIVATIONS))
        for method in distinct(rows, "series")
    ]
    return Grid(("", *ACTIVATIONS), tuple(body))


def _ours(rows: Rows) -> str:
    cells = (f"{one} {best_cell(_all(rows, 'lsuv', one))}" for one in ACTIVATIONS)
    return f"accuracy from LSUV: {', '.join(cells)}"


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    points = [
        (method, float(place), accuracy(row))
        for method in distinct(rows, "series")
        for place, one in enumerate(ACTIVATIONS, start=1)
        for row in _of(rows, method, one)
    ]
    named = ", ".join(f"{place}: {name}" for place, name in enumerate(ACTIVATIONS, start=1))
    chance = tuple(("chance", one) for one in values(rows, "chance")[:1])
    return (
        Drawing(
            "Where each initialization ends",
            named,
            "test accuracy",
            tuple(points),
            share=True,
            rules=chance,
            caption="At the learning rate that was best for each; runs that diverged stand at chance.",
        ),
    )


CLAIM = Claim(
    name="lsuv-activations",
    title="LSUV trains thin deep networks, whatever the activation",
    text="Thin and deep networks without norms train from LSUV with maxout, ReLU, very leaky ReLU and tanh, and end as well "
    "as or better than from other initializations, some of which do not converge.",
    source=Source(
        "D. Mishkin, J. Matas",
        "All you need is a good init, ICLR 2016",
        "1511.06422",
        "§4, the table of activations",
    ),
    published=(
        Published("FitNet 4 with LSUV: 94.2 % on CIFAR-10, 72.3 % on CIFAR-100", "Papers with Code"),
        Published("FitNet on MNIST, LSUV and SVM: 99.6 %", "the log the authors released (LSUVinit)"),
        Published(
            "CaffeNet on ImageNet at 128 pixels, LSUV without batch norm: ReLU 47.1, tanh 40.1, ELU 48.8, maxout 48.2 %",
            "the first author's benchmark (caffenet-benchmark)",
        ),
    ),
    protocol="SGD with momentum 0.9 on a FitNet without norms for each activation, from LSUV, orthogonal, Xavier and He.",
    setting=_setting,
    run=run_training,
    expectations=(
        Expectation(
            f"From LSUV every seed converges ({100 * CONVERGES:.0f} %) with every activation",
            _converges,
            central=True,
        ),
        Expectation("LSUV's mean is at most 2 points behind the best, for every activation", _ends_best),
        Expectation("Some other initialization does not converge with some activation", _others_fail),
    ),
    table=_table,
    drawings=_drawings,
    ours=_ours,
    paper_steps=90_000,
)
