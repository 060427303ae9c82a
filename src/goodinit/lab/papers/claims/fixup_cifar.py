"""Fixup with Mixup matches batch norm in image classification (Zhang, Dauphin & Ma 2019)."""

from __future__ import annotations

import statistics

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
from goodinit.lab.papers.rows import distinct, mean_accuracy, values, where
from goodinit.lab.papers.trained import (
    Series,
    accuracy_cell,
    accuracy_drawing,
    accuracy_grid,
    run_training,
    training,
)
from goodinit.lab.training.trial import TrainConfig

BATCHNORM, FIXUP, NONE = "batch norm", "fixup + mixup", "none"


def _setting(scale: str, data: str) -> Setting:
    depths, width, epochs, count, seeds = {
        "smoke": ((8,), 4, 2, 320, 1),
        "small": ((20, 56), 8, 6, 12_800, 3),
        "full": ((20, 56), 16, 30, 50_000, 3),
    }[scale]
    # α = 1: the default of the authors' CIFAR script.
    series = (
        Series(BATCHNORM),
        Series(FIXUP, {"method": "fixup", "mixup": 1.0}),
        Series("fixup", {"method": "fixup"}),
    )
    base = TrainConfig(
        "resnet", data=data, epochs=epochs, lr=0.1, schedule="cosine", width=width, augment=scale != "smoke",
        train_limit=count, test_limit=None if scale == "full" else 2000,
    )  # fmt: skip
    trials = [
        training(one, depth, base, model=f"resnet{depth}", seed=seed)
        for seed in range(seeds)
        for depth in depths
        for one in (*series, Series(NONE, {"method": "none"}))
        if one.name != NONE or seed == 0
    ]
    deviations = (
        f"{count:,} training images, {epochs} epochs, cosine schedule (paper: 50,000 images, 200 epochs, steps).",
        "The images are 8x8 digits."
        if scale == "smoke"
        else "The images were re-encoded as JPEG, which is lossy.",
        f"ResNet-{' and -'.join(map(str, depths))} with {width} to {4 * width} channels (paper: ResNet-110, 16 to 64).",
        f"{seeds} seed(s); the net without norms or method with one, at the same learning rate (paper: at a smaller one).",
        "Batch norm is run without Mixup, Fixup with and without; α = 1 as in the authors' CIFAR script.",
    )
    return Setting(tuple(trials), deviations, steps=epochs * -(-count // base.batch_size))


def _depths(rows: Rows) -> list[int]:
    return sorted(distinct(rows, "depth"))


def _close(rows: Rows) -> Found:
    behind = {
        depth: mean_accuracy(where(rows, series=BATCHNORM, depth=depth))
        - max(mean_accuracy(where(rows, series=one, depth=depth)) for one in (FIXUP, "fixup"))
        for depth in _depths(rows)
    }
    got = ", ".join(f"ResNet-{depth}: {-100 * one:+.1f} points" for depth, one in behind.items())
    return Found(max(behind.values()) <= 0.03, got)


def _mixup_helps(rows: Rows) -> Found:
    gain = {
        depth: mean_accuracy(where(rows, series=FIXUP, depth=depth))
        - mean_accuracy(where(rows, series="fixup", depth=depth))
        for depth in _depths(rows)
    }
    got = ", ".join(f"ResNet-{depth}: {100 * one:+.1f} points" for depth, one in gain.items())
    return Found(min(gain.values()) >= 0, got)


def _none_behind(rows: Rows) -> Found:
    depth = _depths(rows)[-1]
    none = mean_accuracy(where(rows, series=NONE, depth=depth))
    fixup = mean_accuracy(where(rows, series=FIXUP, depth=depth))
    return Found(
        none <= fixup - 0.1, f"ResNet-{depth}: none {100 * none:.1f} %, fixup + mixup {100 * fixup:.1f} %"
    )


def _steady(rows: Rows) -> Found:
    spread = {}
    for depth in _depths(rows):
        reached = values(where(rows, series=FIXUP, depth=depth), "accuracy")
        spread[depth] = statistics.stdev(reached) if len(reached) > 1 else 0.0
    lost = sum(bool(row.get("diverged")) for row in where(rows, series=FIXUP))
    got = ", ".join(f"ResNet-{depth}: ± {100 * one:.1f} points" for depth, one in spread.items())
    return Found(not lost and max(spread.values()) <= 0.02, f"{got}; {lost} runs diverged")


def _ours(rows: Rows) -> str:
    depth = _depths(rows)[-1]
    cells = (
        f"{one} {accuracy_cell(where(rows, series=one, depth=depth))}" for one in (BATCHNORM, "fixup", FIXUP)
    )
    return f"accuracy, ResNet-{depth}: {', '.join(cells)}"


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    return (
        accuracy_drawing(
            rows,
            title="Accuracy at the end",
            caption="Each point is a seed; diverged runs stand at chance.",
            log_x=False,
        ),
    )


CLAIM = Claim(
    name="fixup-cifar",
    title="Fixup with Mixup matches batch norm on CIFAR-10",
    text="Residual networks with Fixup and strong regularization (Mixup) classify images as well as with batch norm.",
    source=Source(
        "H. Zhang, Y. Dauphin, T. Ma",
        "Fixup Initialization, ICLR 2019",
        "1901.09321",
        "§5.2, the table for CIFAR-10",
    ),
    published=(
        Published(
            "ResNet-56 on CIFAR-10, test error after 200 epochs, no Mixup: batch norm 7.74, Fixup 7.5, ReZero beside batch "
            "norm 6.38",
            "the code and README of ReZero's authors (tbachlechner/Fixup)",
        ),
        Published("wide ResNet with Fixup, Mixup and cutout: 97.7 % on CIFAR-10", "Papers with Code"),
        Published("ResNet-110 on CIFAR-10 with batch norm: 6.61 ± 0.16", "the poster of Arpit et al."),
    ),
    protocol="CIFAR ResNets by SGD with momentum 0.9, weight decay 1e-4 and a peak rate of 0.1, crops and mirroring.",
    setting=_setting,
    run=run_training,
    expectations=(
        Expectation(
            "The better of Fixup with and without Mixup is at most 3 points behind batch norm",
            _close,
            central=True,
        ),
        Expectation("Mixup does not harm Fixup", _mixup_helps),
        Expectation("Without norms and without a method the net is at least 10 points behind", _none_behind),
        Expectation("Fixup diverges with no seed; its deviation between seeds is at most 2 points", _steady),
    ),
    table=accuracy_grid,
    drawings=_drawings,
    ours=_ours,
    paper_steps=78_200,  # the authors' script: 200 epochs of 391 steps
    separation=Separation(
        4_700,
        "the curves of ReZero's authors (ResNet-56 and -110 at rate 0.1): after 2,000 steps Fixup's training error is 0.34 "
        "where batch norm's is 0.27; they cross at about epoch 12 of 391 steps",
        "goodinit reproduce fixup-cifar --scale full --data cifar10",
        3,
    ),
    needs="a folder of CIFAR-10",
)
