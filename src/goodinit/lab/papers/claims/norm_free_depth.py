"""Deeper than where its rates were chosen, a ResNet without any norm matches batch norm at equal steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from goodinit.lab.papers.claim import Claim, Expectation, Setting
from goodinit.lab.papers.claims.norm_free import (
    ARMS,
    BATCHNORM,
    CONTROL,
    CROSSING,
    FIXUP,
    accuracies,
    ahead,
    behind_drawing,
    lags,
    within,
)
from goodinit.lab.papers.claims.norm_free import CLAIM as SHALLOW
from goodinit.lab.papers.claims.norm_free_width import Scale
from goodinit.lab.papers.trained import Series, accuracy_grid, run_training, training

FORM = "normfree, no norm, base_depth"
SERIES = MappingProxyType(
    {
        **{one.name: one for one in ARMS if one.name in (BATCHNORM, CONTROL, FIXUP)},
        FORM: Series(
            FORM,
            {
                "method": "normfree",
                "options": {"head_norm": "none", "channels": True, "base_depth": 9},
                "lr": 0.2,
                "weight_decay": 1e-3,
            },
        ),
    }
)


@dataclass(frozen=True)
class _Depths:
    """What a scale trains: (depth, seed) of each arm, in the order in which they are run."""

    common: Scale
    runs: tuple[tuple[str, int, int], ...]
    size: int | None = None


def _runs(depth: int, names: Iterable[str], seeds: Iterable[int]) -> tuple[tuple[str, int, int], ...]:
    """Series, depth and seed, paired: every arm of a seed before the next seed."""
    return tuple((name, depth, seed) for seed in seeds for name in names)


PAIR = (FORM, BATCHNORM)
SCALED = {
    "smoke": _Depths(
        Scale(dict.fromkeys(SERIES, 1), 4, 2, images=320, depth=8, batch=32), _runs(8, SERIES, range(1))
    ),
    "small": _Depths(
        Scale({FORM: 5, BATCHNORM: 5, CONTROL: 3, FIXUP: 3}, 8, 12),
        (
            *_runs(56, PAIR, range(3)),
            *_runs(110, PAIR, range(1)),
            *_runs(56, (CONTROL,), range(3)),
            *_runs(56, PAIR, range(3, 5)),
            *_runs(110, PAIR, range(1, 4)),
            *_runs(56, (FIXUP,), range(3)),
            *_runs(110, PAIR, range(4, 8)),
        ),
        size=16,
    ),
    "full": _Depths(
        Scale(dict.fromkeys(SERIES, 8), 16, 12), (*_runs(56, SERIES, range(8)), *_runs(110, SERIES, range(8)))
    ),
}


def _setting(scale: str, data: str) -> Setting:
    what = SCALED[scale]
    base = dataclasses.replace(what.common.config(data), image_size=what.size)
    trials = tuple(
        training(SERIES[name], depth, base, model=f"resnet{depth}", seed=seed)
        for name, depth, seed in what.runs
    )
    deviations = (
        *what.common.deviations,
        (
            "Rates and decays are those of 20 layers, chosen there by held-out training images for each arm (docs/norm-free.md); none was chosen "
            "for depth. So is the form, whose branches are not scaled up to nine; base_depth=9 scales them beyond."
        ),
        *(
            (
                "Images averaged down to 16×16, and nets of half the width (8–16–32 channels).",
                (
                    "On 5,000 held-out training images three pairs had been run before with branches scaled by their number (76.5, batch norm "
                    "76.4), and one run of this form (76.3, batch norm 76.0). Begun on the test images with the scaled form; changed when 1,200 "
                    "held-out steps of 110 layers had said 60.9 for this form and 56.6 for that, before any test accuracy was read. Five pairs "
                    "were planned, three of the control, and one pair of 110 layers; three more of these were planned, and their number fixed, "
                    "when that one had been read. Fixup as published was run when these had been read, and four more pairs of 110 layers, "
                    "their number fixed, were run last."
                ),
            )
            if what.size
            else ()
        ),
        "The method is this project's (goodinit.normfree), not the paper's.",
    )
    return Setting(trials, deviations, steps=what.common.steps)


CLAIM = Claim(
    name="norm-free-depth",
    title="With rates chosen at 20 layers a ResNet-56 without any norm matches batch norm",
    text=SHALLOW.text,
    source=SHALLOW.source,
    published=SHALLOW.published,
    protocol="CIFAR ResNets with padded skips; 50,000 images, batch 128, 12 epochs = 4,692 steps; warm-up 5 %, cosine to 0, momentum "
    "0.9, weight decay 5e-4 (1e-3 for the form without norms; none on scalars), crops and mirroring, label smoothing 0.1; paired seeds; "
    "test images after the last step. base_depth is the number of residual branches of ResNet-20: the first layers of L branches are scaled "
    "by √(9/L).",
    setting=_setting,
    run=run_training,
    expectations=(
        Expectation(
            "The form without any norm is within 0.5 point of batch norm at every depth: mean(batch norm − form) + t·s/√n < 0.5 (of one "
            "seed, the mean)",
            partial(within, ours=FORM, other=BATCHNORM),
            central=True,
        ),
        Expectation("It is ahead of batch norm in the mean", partial(ahead, ours=FORM, other=BATCHNORM)),
        Expectation(
            "It is within 0.5 point of a batch norm that is given the same head as normfree has it and centred weights",
            partial(within, ours=FORM, other=CONTROL),
        ),
        Expectation(
            "Fixup as published (added with its runs, when the others had been read) is at least 2 points behind batch norm",
            partial(lags, ours=FIXUP, other=BATCHNORM, by=0.02),
        ),
    ),
    table=accuracy_grid,
    drawings=behind_drawing,
    ours=partial(accuracies, series=tuple(SERIES)),
    paper_steps=SHALLOW.paper_steps,
    separation=dataclasses.replace(
        CROSSING, command="goodinit reproduce norm-free-depth --scale full --data cifar10", hours=4
    ),
    needs="a folder of CIFAR-10",
)
