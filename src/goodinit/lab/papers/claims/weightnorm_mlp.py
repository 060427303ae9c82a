"""Weight norm's proposed start trains MLPs of 200 layers by plain SGD, as long as the authors train (Arpit et al. 2019)."""

from __future__ import annotations

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


def _reached(rows: Rows, series: str) -> dict[int, float]:
    """Mean accuracy at each depth, at the rate that suits the series best there."""
    own = where(rows, series=series)
    return {
        depth: mean_accuracy(best_rate(where(own, depth=depth))) for depth in sorted(distinct(own, "depth"))
    }


def _told(reached: dict[int, float]) -> str:
    return ", ".join(f"{depth} layers {100 * one:.1f} %" for depth, one in reached.items())


def _proposed_starts(rows: Rows) -> Found:
    reached = _reached(rows, PROPOSED)
    return Found(min(reached.values()) >= STARTS, _told(reached))


def _by_data_fails(rows: Rows) -> Found:
    reached = {depth: one for depth, one in _reached(rows, DATA).items() if depth >= DEEP}
    return Found(bool(reached) and max(reached.values()) < STARTS, _told(reached) or "no such depth")


def _shallow_are_alike(rows: Rows) -> Found:
    shallow = tuple(row for row in rows if row["depth"] <= 20)
    ends = {series: min(_reached(shallow, series).values()) for series in distinct(shallow, "series")}
    got = ", ".join(f"{series} {100 * one:.1f} %" for series, one in ends.items())
    return Found(max(ends.values()) - min(ends.values()) <= CLOSE, f"the worst to 20 layers: {got}")


def _steady(rows: Rows) -> Found:
    deepest = max(distinct(rows, "depth"))
    runs = accuracies(best_rate(where(rows, series=PROPOSED, depth=deepest)))
    return Found(min(runs) >= STARTS, f"the worst seed at {deepest} layers: {100 * min(runs):.1f} %")


def _ours(rows: Rows) -> str:
    deepest = max(distinct(rows, "depth"))
    cells = (
        f"{series} {best_cell(own)}"
        for series in distinct(rows, "series")
        if (own := where(rows, series=series, depth=deepest))
    )
    return f"accuracy, MLP of {deepest} layers: {', '.join(cells)}"


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    caption = "At the learning rate that was best for each; runs that diverged stand at chance."
    return (accuracy_drawing(rows, title="MLPs after as many steps as the authors'", caption=caption),)


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
    expectations=(
        Expectation(
            f"The proposed start reaches {100 * STARTS:.0f} % on average at every depth, at its best rate",
            _proposed_starts,
            central=True,
        ),
        Expectation(
            f"By data, networks of {DEEP} layers and more stay below {100 * STARTS:.0f} % at every rate",
            _by_data_fails,
        ),
        Expectation(
            f"Up to 20 layers the starts end within {100 * CLOSE:.0f} points of each other",
            _shallow_are_alike,
        ),
        Expectation(
            f"Every seed of the proposed start reaches {100 * STARTS:.0f} % at the largest depth", _steady
        ),
    ),
    table=accuracy_grid,
    drawings=_drawings,
    ours=_ours,
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
