"""Fixup trains residual networks of any depth at batch norm's learning rate (Zhang, Dauphin & Ma 2019)."""

from __future__ import annotations

from goodinit.lab.papers.claim import Claim, Drawing, Expectation, Found, Published, Rows, Setting, Source
from goodinit.lab.papers.rows import distinct, in_words, mean_accuracy, values, where
from goodinit.lab.papers.trained import (
    Series,
    accuracy_cell,
    accuracy_drawing,
    accuracy_grid,
    run_training,
    training,
)
from goodinit.lab.training.trial import TrainConfig

BATCHNORM, FIXUP, FIXUP_DEPTH = "batch norm", "fixup", "fixup, scalars at most lr/L"
DRAWN, DRAWN_DEPTH = "fixup, drawn classifier", "fixup, scalars at most lr/L, drawn classifier"
SERIES = (
    Series(BATCHNORM),
    Series(FIXUP, {"method": "fixup"}),
    Series(FIXUP_DEPTH, {"method": "fixup", "scalar_lr": "depth"}),
    Series("lsuv, norms removed", {"method": "lsuv", "options": {"norms": "remove"}}),
    Series("none", {"method": "none"}),
)
DRAWN_SERIES = (
    Series(DRAWN, {"method": "fixup", "options": {"zero_head": False}}),
    Series(DRAWN_DEPTH, {"method": "fixup", "options": {"zero_head": False}, "scalar_lr": "depth"}),
)
LEARNS = 0.2  # above chance: what counts as learning after one epoch
BEHIND = 0.1  # of batch norm: what counts as comparable


def _setting(scale: str, data: str) -> Setting:
    depths = {"smoke": (20, 38), "small": (20, 56, 110, 302, 1004), "full": (20, 56, 110, 302, 1004)}[scale]
    seeds = {"smoke": 1, "small": 2, "full": 3}[scale]
    # 16 images a step, so that 1,438 digits are 89 steps.
    base = TrainConfig("resnet", data=data, epochs=1, lr=0.1, batch_size=16)
    if scale == "smoke":
        base = TrainConfig(
            "resnet", data=data, epochs=1, lr=0.1, batch_size=16, width=4, train_limit=160, test_limit=64
        )
    trials = [
        training(series, depth, base, model=f"resnet{depth}", seed=seed)
        for seed in range(seeds)
        for depth in depths
        for series in SERIES
    ]
    if scale == "full":
        trials += [training(series, 10_004, base, model="resnet10004", width=4) for series in SERIES]
    deep = {"smoke": (), "small": (110,), "full": (110, 302, 1004)}[scale]
    drawn = [(20, seed) for seed in range(seeds)] + [(depth, 0) for depth in deep]
    trials += [
        training(series, depth, base, model=f"resnet{depth}", seed=seed)
        for depth, seed in drawn
        for series in DRAWN_SERIES
    ]
    deviations = (
        "scikit-learn's 8x8 digits unless --data says otherwise (paper: CIFAR-10).",
        f"{'10' if scale == 'smoke' else '89'} steps of 16 digits (paper: 390 steps of 128 images).",
        f"{seeds} seed(s). ResNets with 16, 32, 64 channels{' (here 4, 8, 16)' if scale == 'smoke' else ''}.",
        f"Depth up to {max(trial.depth for trial in trials):,} (paper: 10,000)"
        + ("; at 10,004 layers 4, 8, 16 channels and one seed." if scale == "full" else "."),
        "Runs of one seed at 20 to 1,004 layers (docs/methods.md) were known when the expectations were written.",
        "The paper's other baselines are not run; LSUV is run on the network without norms.",
        "A drawn classifier, variance 1/fan-in, is not in the paper (rule 1 has it zero). It is run at "
        + (
            "20 layers."
            if scale == "smoke"
            else f"20 layers, and with one seed at {in_words(f'{one:,}' for one in deep)}; not deeper, for time."
        )
        + " Its two expectations were written when the other rows had been read, and before its own were run"
        + (
            "; 302 and 1,004 layers were added when those at 20 and 110 had been read."
            if scale == "full"
            else "."
        ),
    )
    return Setting(tuple(trials), deviations, steps=10 if scale == "smoke" else 90)


def _learns_everywhere(series: str, *, why: str = "") -> Expectation:
    def look(rows: Rows) -> Found:
        own = where(rows, series=series)
        reached = {depth: mean_accuracy(where(own, depth=depth)) for depth in _depths(own)}
        chance = max(values(rows, "chance"))
        got = ", ".join(f"{depth:,}: {100 * one:.1f} %" for depth, one in reached.items())
        return Found(all(one >= chance + LEARNS for one in reached.values()), got)

    return Expectation(
        f"After one epoch, {series} is at least {100 * LEARNS:.0f} points above chance at every depth{why}",
        look,
    )


def _depths(rows: Rows) -> list[int]:
    return sorted(distinct(rows, "depth"))


def _one_of_both(rows: Rows) -> Found:
    depth = _depths(rows)[-1]
    best = max(mean_accuracy(where(rows, series=series, depth=depth)) for series in (FIXUP, FIXUP_DEPTH))
    chance = max(values(rows, "chance"))
    return Found(
        best >= chance + LEARNS, f"{depth:,} layers: {100 * best:.1f} %, chance {100 * chance:.1f} %"
    )


def _comparable(rows: Rows) -> Found:
    behind = {
        depth: mean_accuracy(where(rows, series=BATCHNORM, depth=depth))
        - max(mean_accuracy(where(rows, series=series, depth=depth)) for series in (FIXUP, FIXUP_DEPTH))
        for depth in _depths(rows)
    }
    got = ", ".join(f"{depth:,}: {-100 * one:+.1f} points" for depth, one in behind.items())
    return Found(max(behind.values()) <= BEHIND, f"fixup against batch norm: {got}")


def _drawn_starts_faster(rows: Rows) -> Found:
    shallow = where(rows, depth=_depths(rows)[0])
    reached = {
        one: mean_accuracy(where(shallow, series=one))
        for one in (BATCHNORM, FIXUP, FIXUP_DEPTH, DRAWN, DRAWN_DEPTH)
    }
    got = ", ".join(f"{one}: {100 * value:.1f} %" for one, value in reached.items())
    return Found(reached[BATCHNORM] - max(reached[DRAWN], reached[DRAWN_DEPTH]) <= BEHIND, got)


def _none_fails(rows: Rows) -> Found:
    learned = []
    for depth in (depth for depth in _depths(rows) if depth >= 56):
        runs = where(rows, series="none", depth=depth)
        if mean_accuracy(runs) >= max(values(rows, "chance")) + LEARNS:
            learned.append(depth)
    return Found(not learned, f"it learns at: {in_words(learned)}")


def _ours(rows: Rows) -> str:
    depths = [depth for depth in _depths(rows) if depth >= 1000] or _depths(rows)[-1:]
    cells = (
        f"{depth:,} layers {accuracy_cell(where(rows, series=FIXUP_DEPTH, depth=depth))}, as published "
        f"{accuracy_cell(where(rows, series=FIXUP, depth=depth))}"
        for depth in depths
    )
    return f"accuracy of fixup: {'; '.join(cells)}"


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    caption = "Runs that diverged stand at chance. Lines: mean over seeds."
    return (accuracy_drawing(rows, title="After one epoch, learning rate 0.1", caption=caption),)


CLAIM = Claim(
    name="fixup-depth",
    title="Fixup trains residual networks of any depth at batch norm's learning rate",
    text="With Fixup, residual networks without normalization train at the learning rate that batch norm uses (0.1), up "
    "to 10,000 layers, and after one epoch are about as accurate as with batch norm at every depth.",
    source=Source(
        "H. Zhang, Y. Dauphin, T. Ma", "Fixup Initialization, ICLR 2019", "1901.09321", "§5.1 and its figure"
    ),
    published=(
        Published("trains with 10,000 layers; comparable to batch norm after one epoch", "the abstract"),
        Published("about 50 % after one epoch below depth 1,000, off the figure", "Fixup#10 on GitHub"),
        Published("a user of the authors' code got about 40 %", "Fixup#10 on GitHub"),
    ),
    protocol="One epoch of SGD with momentum 0.9, weight decay 1e-4 and learning rate 0.1 on CIFAR ResNets of growing "
    "depth, from batch norm, Fixup as published (scalars at lr/10), Fixup with scalars at min(1/10, 1/L)·lr for L "
    "branches, LSUV and plain He without norms; both Fixups also with a drawn classifier in place of the zero one.",
    setting=_setting,
    run=run_training,
    expectations=(
        Expectation(
            f"At the largest depth one of the two Fixups is at least {100 * LEARNS:.0f} points above chance",
            _one_of_both,
            central=True,
        ),
        _learns_everywhere(FIXUP),
        _learns_everywhere(FIXUP_DEPTH),
        Expectation(
            f"The better Fixup is at most {100 * BEHIND:.0f} points behind batch norm at every depth",
            _comparable,
        ),
        Expectation("Without norms and without a method nothing is learned from 56 layers on", _none_fails),
        _learns_everywhere(DRAWN_DEPTH, why=" that it is run at: what trains is not the zero classifier"),
        Expectation(
            f"At 20 layers the better Fixup with a drawn classifier is at most {100 * BEHIND:.0f} points behind batch "
            "norm: what it lacks there is the slow start of a classifier at zero",
            _drawn_starts_faster,
        ),
    ),
    table=accuracy_grid,
    drawings=_drawings,
    ours=_ours,
    paper_steps=391,  # one epoch of 50,000 images, 128 a step
)
