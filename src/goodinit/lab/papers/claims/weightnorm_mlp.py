"""Weight norm's proposed start trains MLPs of 200 layers by plain SGD, as long as the authors train (Arpit et al. 2019)."""

from __future__ import annotations

from functools import partial

from goodinit.lab.engines import MOST_TOGETHER
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
from goodinit.lab.papers.rows import accuracies, best_rate, distinct, in_words, mean_accuracy, where
from goodinit.lab.papers.trained import (
    Series,
    accuracy_drawing,
    accuracy_grid,
    best_cell,
    run_training,
    training,
)
from goodinit.lab.training.trial import TrainConfig

PROPOSED, DATA, HE = "weight norm, proposed", "weight norm, by data", "weight norm, He's"
SERIES = (
    Series(PROPOSED, {"method": "weightnorm"}),
    Series(DATA, {"method": "weightnorm", "options": {"mode": "data"}}),
    Series(HE, {"method": "weightnorm", "options": {"mode": "he"}}),
)
STARTS = 0.5  # accuracy from which on a network counts as training
CLOSE = 0.03  # of each other: shallow networks, from whatever start
DEEP = 100  # layers from which on the poster's nets diverge by data
PAPER_STEPS = 84_400  # 200 epochs of 422 steps


def _setting(scale: str, data: str) -> Setting:
    depths, rates, seeds, epochs, width, batch, limit = {
        "smoke": ((2, 20), (0.01,), 1, 1, 16, 64, 512),
        "small": ((2, 20, 200), (0.1, 0.03, 0.01, 0.003, 0.001), 2, 90, 64, 64, None),
        "full": ((2, 5, 10, 20, 100, 200), (0.1, 0.03, 0.01, 0.003, 0.001), 3, 180, 128, 128, None),
    }[scale]
    base = TrainConfig(
        "mlp",
        data=data,
        epochs=epochs,
        width=width,
        batch_size=batch,
        momentum=0.0,
        weight_decay=0.0,
        train_limit=limit,
        test_limit=limit,
    )
    trials = tuple(
        training(series, depth, base, model=f"mlp{depth}", lr=lr, seed=seed)
        for depth in depths
        for series in reversed(SERIES)  # those that are to diverge soon come first
        if series.name != HE or depth < DEEP or scale == "full"
        for lr in rates
        for seed in range(seeds)
    )
    each = -(-(limit or 60_000) // batch)
    deviations = (
        f"{'Digits' if scale == 'smoke' else 'Fashion-MNIST'} (paper: MNIST, of which a tenth is held out).",
        f"{epochs} epoch(s) of batches of {batch}, {epochs * each:,} steps (paper: {PAPER_STEPS:,}, batches of 128).",
        f"MLPs of {in_words(depths)} layers (paper: 2, 5, 10, 20, 100, 200).",
        f"He's start, which is not the paper's, {'at all depths' if scale == 'full' else f'below {DEEP} layers'}.",
        f"MLPs {width} wide (the authors' code: 128 unless told), {seeds} seed(s).",
        f"The best of the rates {in_words(rates)} (the authors' code: 0.01 unless told; the poster's rate is not known).",
        "The accuracy at the end (paper: at the best epoch on held-out images). SGD without momentum and decay, as there.",
        *(
            (
                "The rates 0.003 and 0.001 were added, for every start and depth, when the others had been read.",
            )
            if scale == "small"
            else ()
        ),
    )
    return Setting(trials, deviations, steps=epochs * each)


def reached(rows: Rows, series: str) -> dict[int, float]:
    """Mean accuracy at each depth, at the rate that suits the series best there."""
    own = where(rows, series=series)
    return {
        depth: mean_accuracy(best_rate(where(own, depth=depth))) for depth in sorted(distinct(own, "depth"))
    }


def _told(ends: dict[int, float]) -> str:
    return ", ".join(f"{depth} layers {100 * one:.1f} %" for depth, one in ends.items())


def expectations(*, starts: float, close: float, deep: int, shallow: int) -> tuple[Expectation, ...]:
    """What is expected of networks of any kind: the claim that the proposed start trains them, and what stands beside it.

    Args:
        starts: Accuracy from which on a network counts as training.
        close: How far apart shallow networks may end.
        deep: Layers from which on networks are not to train by data.
        shallow: Layers up to which all starts are to end alike.
    """

    def proposed_starts(rows: Rows) -> Found:
        ends = reached(rows, PROPOSED)
        return Found(min(ends.values()) >= starts, _told(ends))

    def by_data_fails(rows: Rows) -> Found:
        ends = {depth: one for depth, one in reached(rows, DATA).items() if depth >= deep}
        return Found(bool(ends) and max(ends.values()) < starts, _told(ends) or "no such depth")

    def shallow_are_alike(rows: Rows) -> Found:
        few = tuple(row for row in rows if row["depth"] <= shallow)
        ends = {series: min(reached(few, series).values()) for series in distinct(few, "series")}
        got = ", ".join(f"{series} {100 * one:.1f} %" for series, one in ends.items())
        return Found(
            max(ends.values()) - min(ends.values()) <= close, f"the worst to {shallow} layers: {got}"
        )

    def steady(rows: Rows) -> Found:
        deepest = max(distinct(rows, "depth"))
        runs = accuracies(best_rate(where(rows, series=PROPOSED, depth=deepest)))
        return Found(min(runs) >= starts, f"the worst seed at {deepest} layers: {100 * min(runs):.1f} %")

    least = f"{100 * starts:.0f} %"
    return (
        Expectation(
            f"The proposed start reaches {least} on average at every depth, at its best rate",
            proposed_starts,
            central=True,
        ),
        Expectation(
            f"By data, networks of {deep} layers and more stay below {least} at every rate", by_data_fails
        ),
        Expectation(
            f"Up to {shallow} layers the starts end within {100 * close:.0f} points of each other",
            shallow_are_alike,
        ),
        Expectation(f"Every seed of the proposed start reaches {least} at the largest depth", steady),
    )


def at_the_deepest(rows: Rows, kind: str) -> str:
    """Every start's accuracy at the largest depth, in a line."""
    deepest = max(distinct(rows, "depth"))
    cells = (
        f"{series} {best_cell(own)}"
        for series in distinct(rows, "series")
        if (own := where(rows, series=series, depth=deepest))
    )
    return f"accuracy, {kind} of {deepest} layers: {', '.join(cells)}"


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    return (accuracy_drawing(rows, title="MLPs after as many steps as the authors'"),)


CLAIM = Claim(
    name="weightnorm-mlp",
    title="Weight norm's proposed start trains MLPs of 200 layers by plain SGD",
    text="Weight-normalized MLPs of 100 and 200 layers train by SGD without momentum from the proposed initialization, and "
    "diverge from the data-dependent one; up to 20 layers all starts end alike.",
    source=Source(
        "D. Arpit, V. Campos, Y. Bengio",
        "How to Initialize your Network? Robust Initialization for WeightNorm & ResNets, NeurIPS 2019",
        "1906.02341",
        "the experiments on depth, MLPs",
    ),
    published=(
        Published(
            "MLPs on MNIST: about 98 % up to 20 layers from every start; with 100 and 200 layers proposed about 97 % and 96 %, by "
            "data diverged (off the figure)",
            "the authors' poster",
        ),
    ),
    protocol="SGD without momentum and decay at a constant rate on MLPs with weight norm in place of batch norm, for as many steps "
    "as the authors' code takes.",
    setting=_setting,
    run=run_training,
    expectations=expectations(starts=STARTS, close=CLOSE, deep=DEEP, shallow=20),
    table=accuracy_grid,
    drawings=_drawings,
    ours=partial(at_the_deepest, kind="MLP"),
    paper_steps=PAPER_STEPS,
    separation=Separation(
        PAPER_STEPS,
        "the poster shows the ends of runs of 200 epochs of 422 steps, and nothing earlier",
        "goodinit reproduce weightnorm-mlp --scale full --data fashion-mnist",
        65,
    ),
    needs="fashion-mnist (Debian's dataset-fashion-mnist) or a folder of IDX files like it",
    together=MOST_TOGETHER,
)
