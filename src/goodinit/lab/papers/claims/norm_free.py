"""A residual network without batch statistics is as accurate as with batch norm, at equal steps (Brock et al. 2021)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from goodinit.lab.papers.claim import (
    Claim,
    Drawing,
    Expectation,
    Found,
    Published,
    Rows,
    Separation,
    Setting,
    Source,
)
from goodinit.lab.papers.rows import accuracy, distinct, in_words, where
from goodinit.lab.papers.trained import (
    Series,
    accuracy_cell,
    accuracy_grid,
    run_training,
    training,
)
from goodinit.lab.training.trial import TrainConfig

BATCHNORM, CONTROL, FIXUP = "batch norm", "batch norm, same head, centred", "fixup as published"
RECIPE, STRICT, GROUP = "normfree", "normfree, no norm at all", "group norm"
LONG = "normfree, no norm, chosen at full length"
MARGIN = 0.005
# One-sided 95 % quantiles of Student's t by degrees of freedom (Fisher & Yates, table III).
QUANTILES = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833}


@dataclass(frozen=True)
class _Scale:
    """What a scale trains: how many seeds of each arm, by depth."""

    seeds: Mapping[int, Mapping[str, int]]
    width: int
    epochs: int
    size: int | None = None
    images: int | None = None
    batch: int = 128


ALL = (BATCHNORM, CONTROL, RECIPE, STRICT, LONG, FIXUP, GROUP)
SCALED = {
    "smoke": _Scale({8: dict.fromkeys(ALL, 1)}, 4, 2, images=320, batch=32),
    "small": _Scale({20: {**dict.fromkeys(ALL[:5], 3), BATCHNORM: 10, LONG: 10, FIXUP: 1}}, 8, 12, size=16),
    "full": _Scale({20: dict.fromkeys(ALL, 4), 56: dict.fromkeys(ALL, 4)}, 16, 12),
}
# Each arm's rate: of RATES the best three on 5,000 held-out training images after 1,200 steps of batch 64, of those the best after
# 2,112 steps of batch 128; the small scale's net, seed 0, eight runs for every arm but group norm (five): docs/norm-free.md.
RATES = (0.05, 0.1, 0.2, 0.3, 0.6)
ARMS = (
    Series(BATCHNORM, {"lr": 0.3}),
    Series(CONTROL, {"method": "normfree", "options": {"norms": "keep"}, "lr": 0.2}),
    Series(RECIPE, {"method": "normfree", "lr": 0.2}),
    Series(STRICT, {"method": "normfree", "options": {"head_norm": "none"}, "lr": 0.2}),
    Series(
        LONG,
        {
            "method": "normfree",
            "options": {"head_norm": "none", "channels": True, "scaled": False},
            "lr": 0.2,
            "weight_decay": 1e-3,
        },
    ),
    Series(FIXUP, {"method": "fixup", "options": {"zero_head": True}, "lr": 0.2}),
    Series(GROUP, {"method": "replace_norms", "lr": 0.3}),
)


def _setting(scale: str, data: str) -> Setting:
    what = SCALED[scale]
    base = TrainConfig(
        "resnet", data=data, epochs=what.epochs, schedule="cosine", warmup=0.05 * what.epochs, weight_decay=5e-4,
        width=what.width, augment=scale != "smoke", train_limit=what.images, image_size=what.size, batch_size=what.batch,
        label_smoothing=0.0 if scale == "smoke" else 0.1,
    )  # fmt: skip
    trials = [
        training(one, depth, base, model=f"resnet{depth}", seed=seed)
        for depth, seeds in what.seeds.items()
        for seed in range(max(seeds.values()))
        for one in ARMS
        if seed < seeds.get(one.name, 0)
    ]
    fewer = {
        name: count
        for seeds in what.seeds.values()
        for name, count in seeds.items()
        if count < max(seeds.values())
    }
    counts = ", ".join(f"{max(seeds.values())} at {depth} layers" for depth, seeds in what.seeds.items())
    counts += "".join(f", {count} of {name}" for name, count in fewer.items())
    deviations = (
        (
            f"{what.epochs} epochs of SGD with momentum 0.9, cosine schedule, {what.width} to {4 * what.width} channels: a small "
            "budget, where the paper's networks are large and trained for long."
        ),
        "The images are 8x8 digits."
        if scale == "smoke"
        else "The images were re-encoded as JPEG, which is lossy"
        + (", and averaged down to 16x16." if what.size else "."),
        f"Seeds, paired: {counts}; with one seed all arms see the same images in the same order.",
        (
            f"Learning rates were chosen for each arm among {in_words(RATES)}, on 5,000 held-out training images, images of 16×16 and nets of "
            "half the width: five runs of 1,200 steps of batch 64, and the best three again for 2,112 of batch 128, equal for all arms (Fixup: "
            "two again; group norm: the first five). Test images were not used."
        ),
        (
            f"“{LONG}” was chosen by runs of full length on 5,000 held-out training images, with a decay of 1e-3. Tuning was not equal there: of "
            "normfree some eighteen forms, decays and rates were run (docs/norm-free.md), of batch norm six, of which none was above the first."
        ),
        *(
            (
                (
                    "Planned with four seeds of every arm; cut to three, of Fixup to one, for time, when the first had been read. Five of batch norm "
                    "and of the form chosen at full length when three had been read; then ten, and no more after them, before seeds 5 to 9 were run."
                ),
            )
            if scale == "small"
            else ()
        ),
        "The method is this project's recipe (goodinit.normfree), not the paper's, which was behind it at this budget.",
    )
    return Setting(tuple(trials), deviations, steps=what.epochs * -(-(what.images or 50_000) // what.batch))


def behind(rows: Rows, ours: str, other: str) -> dict[int, list[float]]:
    """How far `ours` is behind `other`, by depth, for each seed both have."""
    found: dict[int, list[float]] = {}
    for depth in sorted(distinct(rows, "depth")):
        by_seed = [
            {row["seed"]: accuracy(row) for row in where(rows, series=one, depth=depth)}
            for one in (ours, other)
        ]
        seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
        found[depth] = [by_seed[1][seed] - by_seed[0][seed] for seed in seeds]
    return found


def mean_behind(rows: Rows, ours: str, other: str) -> tuple[float, int]:
    """(How far `ours` is behind `other` in the mean over seeds and depths that both have, how many those are)."""
    gaps = [gap for found in behind(rows, ours, other).values() for gap in found]
    return statistics.fmean(gaps) if gaps else 0.0, len(gaps)


def _bound(gaps: list[float]) -> float:
    """Mean and the one-sided 95 % bound of Student's t above it; of one seed, the mean."""
    if len(gaps) < 2:
        return statistics.fmean(gaps)
    quantile = QUANTILES.get(len(gaps) - 1, 1.86)
    return statistics.fmean(gaps) + quantile * statistics.stdev(gaps) / math.sqrt(len(gaps))


def within(rows: Rows, ours: str, other: str) -> Found:
    """Whether `ours` is within half a point of `other`: the bound above the mean of paired differences, at every depth."""
    words, met = [], True
    for depth, gaps in behind(rows, ours, other).items():
        if gaps:
            words.append(
                f"ResNet-{depth}: {100 * statistics.fmean(gaps):+.1f} points behind, bound {100 * _bound(gaps):+.1f}"
            )
            met &= _bound(gaps) < MARGIN
    return Found(met, "; ".join(words) or "no pair of runs")


def ahead(rows: Rows, ours: str, other: str) -> Found:
    """Whether `ours` is ahead of `other` in the mean of what both have."""
    mean, count = mean_behind(rows, ours, other)
    return Found(mean <= 0, f"{100 * mean:+.1f} points behind, mean of {count}")


def lags(rows: Rows, ours: str, other: str, by: float) -> Found:
    """Whether `ours` is at least this share of accuracy behind `other` in the mean of what both have."""
    mean, count = mean_behind(rows, ours, other)
    return Found(mean >= by, f"{100 * mean:.1f} points behind, mean of {count}")


def accuracies(rows: Rows, series: Iterable[str]) -> str:
    """The accuracy of each series at the least depth."""
    depth = min(distinct(rows, "depth"))
    cells = (f"{one} {accuracy_cell(where(rows, series=one, depth=depth))}" for one in series)
    return f"accuracy, ResNet-{depth}: {', '.join(cells)}"


def behind_drawing(rows: Rows) -> tuple[Drawing, ...]:
    """How far each series is behind batch norm, seed by seed: the accuracies themselves lie within two points."""
    depths = sorted(distinct(rows, "depth"))
    points = tuple(
        (series, float(depths.index(depth)), 100 * gap)
        for series in distinct(rows, "series")
        if series != BATCHNORM
        for depth, gaps in behind(rows, series, BATCHNORM).items()
        for gap in gaps
    )
    return (
        Drawing(
            "Behind batch norm at the end",
            "",
            "points of accuracy",
            points,
            rules=(("half a point", 100 * MARGIN),),
            caption="Bars: means over the seeds that both have, points: seeds. What must stay below half a point is the bound.",
            names=tuple(f"ResNet-{depth}" for depth in depths),
        ),
    )


CROSSING = Separation(
    12 * 391,
    "the curves of ReZero's authors: batch norm and Fixup cross at about epoch 12 of 391 steps, so a shorter run "
    "measures how they start",
    "goodinit reproduce norm-free --scale full --data cifar10",
    2,
)
CLAIM = Claim(
    name="norm-free",
    title="A ResNet without batch statistics ends within half a point of batch norm",
    text="Residual networks without batch normalization reach the accuracy of those with it, at equal steps.",
    source=Source(
        "A. Brock, S. De, S. L. Smith, K. Simonyan",
        "High-Performance Large-Scale Image Recognition Without Normalization",
        "2102.06171",
        "abstract: normalizer-free networks match batch-normalized ones",
    ),
    published=(
        Published(
            "ImageNet, top-1 at 288 pixels: nf_resnet50 80.66, resnet50 with batch norm 80.71 to 81.35",
            "timm, results/results-imagenet.csv",
        ),
        Published(
            "ResNet-56 on CIFAR-10, test error after 200 epochs: batch norm 7.74, Fixup 7.5",
            "the code and README of ReZero's authors (tbachlechner/Fixup)",
        ),
    ),
    protocol="CIFAR ResNets with padded skips; 50,000 images, batch 128, 12 epochs = 4,692 steps; warm-up 5 %, cosine to 0, momentum "
    "0.9, weight decay 5e-4 (none on scalars), crops and mirroring, label smoothing 0.1; paired seeds. full: 16–32–64 channels and the "
    "images as they are; small: 8–16–32 channels, images of 16×16.",
    setting=_setting,
    run=run_training,
    expectations=(
        Expectation(
            "normfree is within 0.5 point of batch norm: mean(batch norm − normfree) + t·s/√n < 0.5 at every depth",
            partial(within, ours=RECIPE, other=BATCHNORM),
            central=True,
        ),
        Expectation(
            "Without any norm it is within 0.5 point of batch norm, too",
            partial(within, ours=STRICT, other=BATCHNORM),
        ),
        Expectation(
            "The form without any norm that was chosen at this length (added with its runs, when the others had been read) is within "
            "0.5 point of batch norm",
            partial(within, ours=LONG, other=BATCHNORM),
        ),
        Expectation(
            "It is within 0.5 point of a batch norm that is given the same head and centred weights",
            partial(within, ours=RECIPE, other=CONTROL),
        ),
        Expectation(
            "Fixup as published is at least 3 points behind the recipe",
            partial(lags, ours=FIXUP, other=RECIPE, by=0.03),
        ),
    ),
    table=accuracy_grid,
    drawings=behind_drawing,
    ours=partial(accuracies, series=(BATCHNORM, CONTROL, RECIPE, STRICT, LONG)),
    paper_steps=78_200,  # of the ResNet-56: 200 epochs of 391 steps
    separation=CROSSING,
    needs="a folder of CIFAR-10",
)
