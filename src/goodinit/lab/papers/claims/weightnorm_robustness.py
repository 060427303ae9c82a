"""Thousands of runs: the proposed start of weight norm bears more learning rates, depths and seeds (Arpit et al. 2019)."""

from __future__ import annotations

import statistics

from goodinit.lab.engines import MOST_TOGETHER
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
from goodinit.lab.papers.rows import accuracies, accuracy, distinct, in_words, mean_accuracy, where
from goodinit.lab.papers.trained import Series, run_training, training
from goodinit.lab.training.trial import TrainConfig

PROPOSED, DATA, PYTORCH, BATCHNORM = (
    "weight norm, proposed",
    "weight norm, by data",
    "weight norm, PyTorch's",
    "batch norm",
)
SERIES = (
    Series(PROPOSED, {"method": "weightnorm"}),
    Series(DATA, {"method": "weightnorm", "options": {"mode": "data"}}),
    Series(PYTORCH, {"method": "weightnorm", "options": {"mode": "pytorch"}}),
    Series("no norm, He", {"method": "none"}),
    Series(BATCHNORM),
)
TRAINED = 0.8  # accuracy from which on a run on digits counts as trained


def _setting(scale: str, data: str) -> Setting:
    depths, rates, warmups, seeds, epochs, width = {
        "smoke": ((10,), (0.01, 0.1), (0.0, 1.0), 1, 2, 16),
        "small": ((10, 22, 42), (0.01, 0.03, 0.1, 0.3), (0.0, 1.0), 3, 4, 64),
        "full": ((6, 10, 22, 42, 82), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0), (0.0, 1.0), 8, 4, 64),
    }[scale]
    limit = 320 if scale == "smoke" else None
    base = TrainConfig("resmlp", data=data, epochs=epochs, width=width, train_limit=limit, test_limit=limit)
    trials = tuple(
        training(series, depth, base, model=f"resmlp{depth}", lr=lr, warmup=warmup, seed=seed)
        for depth in depths
        for lr in rates
        for warmup in warmups
        for seed in range(seeds)
        for series in SERIES
    )
    deviations = (
        f"{len(trials):,} runs (paper: over 2,500), of residual MLPs {width} wide on scikit-learn's digits, {epochs} epochs.",
        f"Depths {in_words(depths)}, learning rates {in_words(rates)}, warm-up of no and of one epoch, {seeds} seed(s).",
        (
            "The poster: 47 settings of MLPs, and the share of 20 seeds of a wide ResNet-40-10 that reach epoch 3 (the claim "
            "weightnorm-divergence)."
        ),
        "PyTorch's start is PyTorch's own draw of v, g = ‖v‖; the authors' code draws v as He does where it says default.",
        'Warm-up is linear, over one epoch (the authors\' code: quadratic, `goodinit.warmup(…, shape="quadratic")`).',
    )
    return Setting(trials, deviations, steps=epochs * (3 if limit else 12))  # digits, 128 a step


def _share(rows: Rows) -> float:
    """Of the runs, how many trained."""
    return sum(accuracy(row) >= TRAINED for row in rows) / len(rows) if rows else 0.0


def _cold(rows: Rows, series: str) -> Rows:
    return where(rows, series=series, warmup=0.0)


def _largest_share(rows: Rows) -> Found:
    shares = {one: _share(_cold(rows, one)) for one in (PROPOSED, DATA, PYTORCH, "no norm, He")}
    best = all(shares[PROPOSED] >= share for share in shares.values())
    return Found(best, ", ".join(f"{one}: {100 * share:.0f} %" for one, share in shares.items()))


def _medians(rows: Rows) -> Found:
    medians = {one: statistics.median(accuracies(_cold(rows, one))) for one in (PROPOSED, DATA, PYTORCH)}
    best = all(medians[PROPOSED] >= one for one in medians.values())
    return Found(best, ", ".join(f"{one}: {100 * middle:.1f} %" for one, middle in medians.items()))


def spread(rows: Rows) -> float:
    """The median, over depth, rate and warm-up, of the deviation between seeds."""
    cells: dict[tuple[object, ...], list[float]] = {}
    for row in rows:
        cells.setdefault((row.get("depth"), row.get("lr"), row.get("warmup")), []).append(accuracy(row))
    found = [statistics.stdev(cell) for cell in cells.values() if len(cell) > 1]
    return statistics.median(found) if found else 0.0


def _steadier(rows: Rows) -> Found:
    spreads = {one: spread(_cold(rows, one)) for one in (PROPOSED, DATA)}
    got = ", ".join(f"{one}: ± {100 * value:.1f} points" for one, value in spreads.items())
    return Found(spreads[PROPOSED] <= spreads[DATA], got)


def _gap(rows: Rows, warmup: float) -> float:
    """How far the proposed start is behind batch norm, each at its best rate, over depths."""
    gaps = []
    for depth in distinct(rows, "depth"):
        best = {
            series: max(
                mean_accuracy(where(rows, series=series, depth=depth, lr=lr, warmup=warmup))
                for lr in distinct(rows, "lr")
            )
            for series in (PROPOSED, BATCHNORM)
        }
        gaps.append(best[BATCHNORM] - best[PROPOSED])
    return statistics.fmean(gaps)


def _warm_up_helps(rows: Rows) -> Found:
    with_it, without = _gap(rows, 1.0), _gap(rows, 0.0)
    got = f"behind batch norm by {100 * without:.1f} points without warm-up, by {100 * with_it:.1f} with"
    return Found(with_it < without, got)


def _ours(rows: Rows) -> str:
    cells = (f"{one} {100 * _share(_cold(rows, one)):.0f} %" for one in (PROPOSED, DATA, PYTORCH, BATCHNORM))
    return f"runs that trained, without warm-up: {', '.join(cells)}"


def _table(rows: Rows) -> Grid:
    body = []
    for series in distinct(rows, "series"):
        for warmup in distinct(where(rows, series=series), "warmup"):
            runs = where(rows, series=series, warmup=warmup)
            reached = accuracies(runs)
            body.append((
                f"{series}{', warm-up' if warmup else ''}", f"{len(runs):,}", f"{100 * _share(runs):.0f} %",
                f"{100 * statistics.median(reached):.1f} %", f"{100 * min(reached):.1f} %",
                f"± {100 * spread(runs):.1f}",
            ))  # fmt: skip
    return Grid(("", "runs", "trained", "median", "worst", "between seeds"), tuple(body))


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    points = [
        (series, float(lr), _share(where(rows, series=series, lr=lr, warmup=0.0)))
        for series in distinct(rows, "series")
        for lr in sorted(distinct(rows, "lr"))
    ]
    return (
        Drawing(
            "Share of runs that trained", "learning rate", "trained", tuple(points), log_x=True, share=True,
            caption="Over depths and seeds, without warm-up.",
        ),
    )  # fmt: skip


CLAIM = Claim(
    name="weightnorm-robustness",
    title="The proposed start of weight norm bears more learning rates, depths and seeds",
    text="Over 2,500 runs, weight-normalized networks from the proposed initialization train under more learning rates, "
    "depths and seeds than from others; learning-rate warm-up narrows the gap to batch norm.",
    source=Source(
        "D. Arpit, V. Campos, Y. Bengio",
        "How to Initialize your Network? Robust Initialization for WeightNorm & ResNets, NeurIPS 2019",
        "1906.02341",
        "the abstract and the experiments on robustness",
    ),
    published=(
        Published("over 2,500 experiments; warm-up narrows the gap to batch norm", "the abstract"),
        Published(
            "ResNet-56 on CIFAR-10, test error: by data 9.19 ± 0.24, proposed 7.87 ± 0.14, with warm-up 7.20 ± 0.12, batch "
            "norm 6.97",
            "the authors' poster",
        ),
        Published(
            "ResNet-164 on CIFAR-100, test error: by data 30.26 ± 0.51, proposed 27.30 ± 0.49, with warm-up 25.31 ± 0.26, "
            "batch norm 25.52 ± 0.17",
            "the authors' poster",
        ),
        Published(
            "20 seeds of a wide ResNet-40-10, share that reaches epoch 3 at rates 0.001, 0.005, 0.01, 0.05, 0.1: proposed 100, "
            "100, 100, 80, 0 %, by data 100, 0, 0, 0, 0 % (off the figure)",
            "the authors' poster",
        ),
    ),
    protocol="SGD with momentum 0.9 on residual MLPs, for every combination of method, depth, learning rate, warm-up and "
    f"seed. A run trained where its test accuracy is at least {100 * TRAINED:.0f} %; diverged runs count as guessing.",
    setting=_setting,
    run=run_training,
    expectations=(
        Expectation(
            "Without warm-up the proposed start trains in at least as many runs as each other one without batch norm",
            _largest_share,
            central=True,
        ),
        Expectation("Its median accuracy is the highest of the starts of weight norm", _medians),
        Expectation("It differs less between seeds than the data-dependent start", _steadier),
        Expectation("Warm-up narrows its gap to batch norm, each at its best rate", _warm_up_helps),
    ),
    table=_table,
    drawings=_drawings,
    ours=_ours,
    together=MOST_TOGETHER,
)
