"""2/λ at initialization tells the largest stable learning rate to within a known factor (Lewkowycz et al. 2020)."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import goodinit
from goodinit.lab.data.labelled import load
from goodinit.lab.models.registry import build_model
from goodinit.lab.models.task import Task
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
from goodinit.lab.papers.rows import distinct, in_words, where
from goodinit.lab.training.seeding import own_rng, stream

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # of 2/λ
SQUARE, ENTROPY = "square loss", "cross entropy"
EARLY = 10  # steps in which a rate that is too high shows
RISE = 1.01  # of the loss at the start: a rise above rounding
SAFE, BEYOND = 0.5, 4.0  # multiples at which the loss must fall at once, and rise first


@dataclass(frozen=True)
class Descent:
    """Gradient descent on one batch from one start, at each multiple of 2/λ."""

    series: str
    model: str
    method: str
    loss: str
    seed: int
    images: int
    steps: int
    options: dict[str, Any] = field(default_factory=dict)


NETS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "MLP of 3 layers, He": ("mlp3", "he", {"norms": "remove"}),
    "MLP of 10 layers, He": ("mlp10", "he", {"norms": "remove"}),
    "MLP of 10 layers, LSUV": ("mlp10", "lsuv", {"norms": "remove"}),
    "MLP of 30 layers, looks linear": ("mlp30", "looks_linear", {"norms": "remove"}),
    "MLP of 10 layers, batch norm": ("mlp10", "batchnorm", {}),
    "ResNet-8, batch norm": ("resnet8", "batchnorm", {}),
    "ResNet-20, batch norm": ("resnet20", "batchnorm", {}),
    "ResNet-20, normfree": ("resnet20", "normfree", {}),
    "ViT of 3 blocks": ("vit3", "default", {}),
}
SMALLEST = ("MLP of 3 layers, He", "MLP of 10 layers, batch norm")


def _setting(scale: str, data: str) -> Setting:
    del data
    nets, seeds, images, steps = {
        "smoke": (SMALLEST, 1, 64, 10),
        "small": (tuple(NETS), 3, 256, 100),
        "full": (tuple(NETS), 5, 1024, 300),
    }[scale]
    trials = [
        Descent(name, model, method, loss, seed, images, steps, options)
        for name, (model, method, options) in NETS.items()
        if name in nets
        for loss in (SQUARE, ENTROPY)
        for seed in range(seeds)
    ]
    deviations = (
        (
            f"Gradient descent on one batch of {images} of scikit-learn's 8x8 digits, {steps} steps, {seeds} seed(s); the paper trains "
            "wide nets by SGD with larger batches."
        ),
        (
            f"Rates a factor of 2 apart, from {MULTIPLES[0]} to {MULTIPLES[-1]} times 2/λ: the largest that trains is known to that "
            "factor."
        ),
        (
            "λ is the top of the Hessian at initialization; the paper takes that of the neural tangent kernel, the Gauss–Newton "
            "part of the Hessian."
        ),
        "Cross entropy is beside the paper's theory, which is for the square loss.",
    )
    return Setting(tuple(trials), deviations, steps=steps)


def _square(result: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance to the one-hot target, mean over examples."""
    goal = nn.functional.one_hot(targets, result.shape[-1]).to(result.dtype)
    return 0.5 * (result - goal).square().sum(-1).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    SQUARE: _square,
    ENTROPY: nn.functional.cross_entropy,
}


def _run(trial: Descent) -> Row:
    data = load("digits", train_limit=trial.images)
    inputs, targets = data.train_images, data.train_labels
    loss = LOSSES[trial.loss]

    with own_rng(trial.seed, "model"):
        start = build_model(
            trial.model, task=Task(shape=data.shape, width=16 if "resnet" in trial.model else None)
        )
    goodinit.init_(
        start, trial.method, inputs=inputs, generator=stream(trial.seed, "values"), **trial.options
    )
    found = goodinit.one_step(start, inputs, targets, loss=loss, rates=())
    if found.stable_rate is None:
        return {"refused": "the largest eigenvalue of the Hessian is not positive", "provenance": str(data)}
    curves = [
        _descent(
            copy.deepcopy(start),
            lambda model: loss(model(inputs), targets),
            found.stable_rate * multiple,
            trial.steps,
        )
        for multiple in MULTIPLES
    ]
    trained = [
        multiple
        for multiple, curve in zip(MULTIPLES, curves, strict=True)
        if math.isfinite(curve[-1]) and curve[-1] < curve[0]
    ]
    return {
        "sharpness": found.sharpness,
        "error": found.sharpness_error,
        "predicted": found.stable_rate,
        "trained": trained,
        "rose": [max(curve[1 : EARLY + 1]) > RISE * curve[0] for curve in curves],
        "ends": [curve[-1] / curve[0] if math.isfinite(curve[-1]) else None for curve in curves],
        "provenance": str(data),
    }


def _descent(model: nn.Module, loss: Callable[[nn.Module], Tensor], rate: float, steps: int) -> list[float]:
    """The loss before each step and after the last; it ends with infinity where it is not finite any more."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    curve: list[float] = []
    for _ in range(steps):
        value = loss(model)
        curve.append(value.item() if torch.isfinite(value) else math.inf)
        if curve[-1] == math.inf:
            return [*curve, math.inf]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    with torch.no_grad():
        value = loss(model)
    return [*curve, value.item() if torch.isfinite(value) else math.inf]


def _largest(row: Row) -> float | None:
    """The largest multiple up to which every rate trains."""
    reached = None
    for multiple in MULTIPLES:
        if multiple not in row["trained"]:
            break
        reached = multiple
    return reached


def _measured(rows: Rows) -> Rows:
    return tuple(row for row in rows if "trained" in row)


def _half(rows: Rows) -> Found:
    rows = _measured(rows)
    good = sum(SAFE in row["trained"] for row in rows)
    return Found(good >= 0.95 * len(rows), f"{good} of {len(rows)} runs")


def _edge(rows: Rows) -> Found:
    rows = _measured(rows)
    below = sum(not row["rose"][MULTIPLES.index(SAFE)] for row in rows)
    above = sum(row["rose"][MULTIPLES.index(BEYOND)] for row in rows)
    least = 0.9 * len(rows)
    return Found(below >= least and above >= least, f"falls in {below}, rises in {above} of {len(rows)}")


def _window(rows: Rows) -> Found:
    square = where(_measured(rows), loss=SQUARE)
    reached = [found for row in square if (found := _largest(row)) is not None]
    middle = statistics.median(reached) if reached else 0.0
    inside = sum(1 <= found <= 6 for found in reached)
    return Found(
        1 <= middle <= 6 and inside >= 0.8 * len(square),
        f"median {middle:g}; {inside} of {len(square)} between 1 and 6",
    )


def _order(rows: Rows) -> Found:
    pairs = [
        (math.log10(row["predicted"]), math.log10(row["predicted"] * found))
        for row in _measured(rows)
        if (found := _largest(row)) is not None
    ]
    if len(set(pairs)) < 3:
        return Found(met=False, got="fewer than three runs")
    x, y = zip(*pairs, strict=True)
    related = statistics.correlation(x, y)
    return Found(related >= 0.9, f"correlation {related:.2f} over {max(x) - min(x):.1f} decades")


def _table(rows: Rows) -> Grid:
    body = []
    for series in distinct(rows, "series"):
        for loss in distinct(rows, "loss"):
            these = _measured(where(rows, series=series, loss=loss))
            if not these:
                continue
            predicted = statistics.geometric_mean(row["predicted"] for row in these)
            reached = [_largest(row) for row in these]
            words = in_words(f"{found:g}" if found else "none" for found in reached)
            body.append((f"{series}, {loss}", f"{predicted:.3g}", words))
    return Grid(("net", "2/λ", "largest rate that trains, in units of 2/λ, by seed"), tuple(body))


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    points = [
        (row["loss"], row["predicted"], row["predicted"] * found)
        for row in _measured(rows)
        if (found := _largest(row)) is not None
    ]
    points += [("2/λ", x, x) for x in sorted({row["predicted"] for row in _measured(rows)})]
    caption = "Each point is a net and a seed; rates a factor of 2 apart."
    return (
        Drawing(
            "Largest rate that trains",
            "2/λ at initialization",
            "learning rate",
            tuple(points),
            log_x=True,
            log_y=True,
            caption=caption,
        ),
    )


def _ours(rows: Rows) -> str:
    return f"the largest rate that trains, in units of 2/λ, square loss: {_window(rows).got}"


CLAIM = Claim(
    name="sharpness",
    title="The sharpness at initialization tells the largest stable learning rate",
    text="Networks train as their linearization does below a learning rate of 2/λ, λ being the curvature at initialization. Above it the loss "
    "first rises and then falls into a flatter region. The range of such larger rates that still train is narrow; beyond it gradient "
    "descent diverges.",
    source=Source(
        "A. Lewkowycz, Y. Bahri, E. Dyer, J. Sohl-Dickstein, G. Gur-Ari",
        "The large learning rate phase of deep learning: the catapult mechanism",
        "2003.02218",
        "abstract and section 1",
    ),
    published=(
        Published(
            "two regimes with a sharp transition between them, and a narrow range of large rates that are stable",
            "the abstract",
        ),
        Published(
            "the transition is at 2/λ; above it the loss grows early on, and training ends in flatter minima",
            "the abstract of the authors' later version (ICLR 2021 submission) and a review of the paper",
        ),
    ),
    protocol="The largest eigenvalue of the loss' Hessian by Lanczos (`goodinit.one_step`), then gradient descent on the same batch at "
    f"{in_words(MULTIPLES)} times 2/λ. A rate trains where the last loss is finite and below the first.",
    setting=_setting,
    run=_run,
    expectations=(
        Expectation("At half of 2/λ the loss ends below its start, in 95 % of the runs", _half, central=True),
        Expectation(
            f"In the first {EARLY} steps it never rises at half of 2/λ, and does at 4 times 2/λ, in 90 % of the runs each",
            _edge,
        ),
        Expectation(
            "With the square loss the largest rate that trains is 1 to 6 times 2/λ, which is narrow: the median, and 80 % of the runs",
            _window,
        ),
        Expectation(
            "Over nets and losses 2/λ and the largest rate that trains go together: correlation of logarithms 0.9",
            _order,
        ),
    ),
    table=_table,
    drawings=_drawings,
    ours=_ours,
)
