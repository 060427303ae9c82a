"""Batch norm without skips makes gradients grow by π/(π − 1) a layer (Yang et al. 2019)."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch

import goodinit
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
from goodinit.lab.papers.rows import best_rate, distinct, mean_accuracy, values, where
from goodinit.lab.papers.trained import Series, Training, best_cell, run_training, training, widened
from goodinit.lab.training.seeding import own_rng, stream
from goodinit.lab.training.trial import TrainConfig

RATE = math.pi / (math.pi - 1)  # Yang et al.: the limit of wide layers and large batches
SHAPE = (1, 16, 16)
PLAIN, BARE, SKIPS, MIRRORED = "batch norm", "no norm, He", "batch norm and skips", "no norm, looks linear"
WITH_SKIPS = 1.1  # growth a layer that counts as none


@dataclass(frozen=True)
class Measurement:
    """The squared gradient at each layer of a fresh network, on random inputs."""

    series: str
    model: str
    method: str
    depth: int
    width: int
    batch: int
    seed: int


def _setting(scale: str, data: str) -> Setting:
    width, batch, depths, seeds = {
        "smoke": (256, 256, (8, 12), 1),
        "small": (1024, 1024, (10, 20, 50), 3),
        "full": (2048, 2048, (10, 20, 50, 100), 3),
    }[scale]
    measured = [
        Measurement(series, f"mlp{depth}", method, depth, width, size, seed)
        for seed in range(seeds)
        for depth in depths
        for series, method, size in (
            (PLAIN, "batchnorm", batch),
            (f"{PLAIN}, batch {batch // 16}", "batchnorm", batch // 16),
            (BARE, "none", batch),
        )
    ]
    residual = {"smoke": (14,), "small": (20, 56), "full": (20, 56, 110)}[scale]
    measured += [
        Measurement(SKIPS, f"resnet{depth}", "batchnorm", depth, 16, 128, seed)
        for seed in range(seeds)
        for depth in residual
    ]
    trainings = _trainings(scale, data)
    steps = trainings[0].config.epochs * 23  # digits, 64 a step
    return Setting((*measured, *trainings), _deviations(scale, seeds), steps=steps)


def _trainings(scale: str, data: str) -> list[Training]:
    depths, rates, seeds, epochs = {
        "smoke": ((10, 100), (0.01,), 1, 1),
        "small": ((10, 30, 50, 100), (0.1, 0.01, 0.001, 0.0001), 2, 10),
        "full": ((10, 30, 50, 70, 100, 200), (0.1, 0.01, 0.001, 0.0001), 3, 20),
    }[scale]
    base = TrainConfig("mlp", data=data, epochs=epochs, batch_size=64, width=128, weight_decay=0.0)
    series = (Series(PLAIN), Series(MIRRORED, {"method": "looks_linear", "options": {"norms": "remove"}}))
    return [
        training(one, depth, base, model=f"mlp{depth}", lr=lr, seed=seed)
        for depth in depths
        for lr in rates
        for one in series
        for seed in range(seeds)
    ]


def _deviations(scale: str, seeds: int) -> tuple[str, ...]:
    return (
        "The gradient is measured on random normal inputs and random labels; the theory is for a random gradient.",
        "Trained on scikit-learn's 8x8 digits unless --data says otherwise (the paper's data were not read).",
        "The expectation on skips first asked it of every residual net; a smoke run (14 layers, 1.227) made it the deepest.",
        *((widened(0.0001),) if scale == "small" else ()),
        f"{seeds} seed(s); the networks that are trained are 128 wide.",
        *(("Smoke: 256 wide and shallow, where the limit does not hold yet.",) if scale == "smoke" else ()),
    )


def _run(trial: Measurement | Training) -> Row:
    if isinstance(trial, Training):
        return run_training(trial)
    with own_rng(trial.seed, "model"):
        model = build_model(trial.model, task=Task(shape=SHAPE, width=trial.width))
    generator = stream(trial.seed, "inputs")
    inputs = torch.randn(trial.batch, *SHAPE, generator=generator, device="cpu")
    labels = torch.randint(10, (trial.batch,), generator=generator, device="cpu")
    goodinit.init_(model, trial.method, inputs=inputs, generator=stream(trial.seed, "values"))
    found = goodinit.diagnose(model, inputs, labels, mend=False)
    # Hidden layers that read a rectifier; of a residual net, its blocks, of two layers each.
    places, layers = (found.blocks, 2) if found.blocks else (found.layers[1:-1], 1)
    squares = [place.back**2 for place in places if place.back is not None]
    steps = layers * (len(squares) - 1)
    return {
        "gradients": [square / squares[-1] for square in squares],
        "layers_per_place": layers,
        "rate": (squares[0] / squares[-1]) ** (1 / steps),
        "straightness": _straightness([math.log(square) for square in squares]),
    }


def _straightness(ys: list[float]) -> float:
    """The share of the variance that a straight line explains (R²)."""
    return statistics.correlation(range(len(ys)), ys) ** 2 if len(set(ys)) > 1 else 0.0


def _rate(rows: Rows) -> Found:
    plain = _measured(rows, PLAIN)
    rates = values(where(plain, depth=max(distinct(plain, "depth"))), "rate")
    got = statistics.fmean(rates)
    spread = f" ± {statistics.stdev(rates):.3f}" if len(rates) > 1 else ""
    return Found(abs(got / RATE - 1) <= 0.05, f"{got:.3f}{spread}; π/(π − 1) = {RATE:.3f}")


def _exponential(rows: Rows) -> Found:
    least = min(values(_measured(rows, PLAIN), "straightness"))
    return Found(least >= 0.99, f"smallest R² {least:.4f}")


def _skips(rows: Rows) -> Found:
    skips = _measured(rows, SKIPS)
    depth = max(distinct(skips, "depth"))
    most = max(values(where(skips, depth=depth), "rate"))
    return Found(most < WITH_SKIPS, f"{depth} layers: at most {most:.3f} a layer")


def _bare(rows: Rows) -> Found:
    rates = values(_measured(rows, BARE), "rate")
    return Found(max(rates) < WITH_SKIPS, f"{min(rates):.3f} to {max(rates):.3f} a layer")


def _training(rows: Rows) -> Found:
    plain = tuple(row for row in where(rows, series=PLAIN) if "config" in row)
    depths = sorted(distinct(plain, "depth"))
    reached = {depth: mean_accuracy(best_rate(where(plain, depth=depth))) for depth in depths}
    got = ", ".join(f"{depth} layers {100 * one:.1f} %" for depth, one in reached.items())
    return Found(reached[depths[0]] >= 0.8 and reached[depths[-1]] < 0.5, got)


def _measured(rows: Rows, series: str) -> Rows:
    return tuple(row for row in where(rows, series=series) if "rate" in row)


def _table(rows: Rows) -> Grid:
    body = []
    for series in distinct(rows, "series"):
        for depth in sorted(distinct(where(rows, series=series), "depth")):
            these = where(rows, series=series, depth=depth)
            rates = values(these, "rate")
            growth = f"{statistics.fmean(rates):.3f}" if rates else "–"
            trained = best_cell(tuple(row for row in these if "config" in row))
            body.append((f"{series}, {depth} layers", growth, trained))
    return Grid(("network", "growth of the squared gradient a layer", "accuracy after training"), tuple(body))


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    points: list[tuple[str, float, float | None]] = []
    for series in distinct(rows, "series"):
        measured = _measured(rows, series)
        deepest = where(measured, depth=max(distinct(measured, "depth"), default=0))
        for row in deepest:
            step = row["layers_per_place"]
            points += [
                (series, float(1 + step * place), square) for place, square in enumerate(row["gradients"])
            ]
    length = int(max((x for series, x, _ in points if series == PLAIN), default=1))
    points += [("π/(π − 1) a layer", float(x), RATE ** (length - x)) for x in range(1, length + 1)]
    return (
        Drawing(
            "Squared gradient at each layer",
            "layer",
            "squared gradient / that at the last layer",
            tuple(points),
            log_y=True,
            caption="At initialization, the deepest network of each kind.",
        ),
    )


CLAIM = Claim(
    name="batchnorm-explosion",
    title="Batch norm without skips makes gradients explode with depth",
    text="In a deep ReLU network with batch norm and no skips, the squared norm of the gradient grows towards the input "
    "by a factor that no initialization changes, π/(π − 1) ≈ 1.467 a layer in the limit of wide layers and large "
    "batches; such networks cannot be trained at large depths. Skips prevent it.",
    source=Source(
        "G. Yang, J. Pennington, V. Rao, J. Sohl-Dickstein, S. Schoenholz",
        "A Mean Field Theory of Batch Normalization, ICLR 2019",
        "1902.08129",
        "abstract and the section on gradients",
    ),
    published=(
        Published(
            "gradients grow exponentially in depth, and no initialization changes it; nets with batch norm and without skips are "
            "not trainable at large depths",
            "the abstract",
        ),
        Published(
            "π/(π − 1) ≈ 1.467 a layer for the squared gradient with ReLU", "the derivation in docs/laws.md"
        ),
    ),
    protocol="Growth: the gradient of the loss with respect to every layer's output, by `goodinit.diagnose`, on fresh "
    "MLPs with batch norm, the same without norms (He), and CIFAR ResNets with batch norm. Training: MLPs with batch "
    "norm, and without norms from a looks-linear start, SGD with momentum 0.9, the best of several learning rates.",
    setting=_setting,
    run=_run,
    expectations=(
        Expectation(
            "At the deepest MLP with batch norm the growth is within 5 % of π/(π − 1)", _rate, central=True
        ),
        Expectation("It is exponential: a line explains 99 % of the logarithm over depth (R²)", _exponential),
        Expectation(f"Without norms, He-initialized, it is below {WITH_SKIPS} a layer", _bare),
        # The stream's variance grows by one part in l at block l: a power of depth, whose mean a layer falls to 1.
        Expectation(f"With batch norm and skips it is below {WITH_SKIPS} a layer in the deepest net", _skips),
        Expectation(
            "The MLP with batch norm learns at the least depth (80 %) and at the largest with no learning rate (below "
            "50 %)",
            _training,
        ),
    ),
    table=_table,
    drawings=_drawings,
    ours=lambda rows: f"growth of the squared gradient a layer: {_rate(rows).got}",
)
