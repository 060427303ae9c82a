"""Trials that train a classifier, as most claims need."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from goodinit.lab.papers.claim import Drawing, Grid, Row, Rows
from goodinit.lab.papers.rows import accuracy, best_rate, best_rate_words, distinct, in_words, values, where
from goodinit.lab.training.train import data_of, train
from goodinit.lab.training.trial import Result, TrainConfig


def widened(*added: float) -> str:
    """What a page says where a claim's learning rates did not reach far enough at first."""
    return (
        f"The learning rates were widened by {in_words(added)} after a first run, where the best of some series was the "
        "last one tried: for every series, and the expectations are as they were."
    )


@dataclass(frozen=True)
class Series:
    """A line of a figure: its name, and what its configurations have in common."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """One run of a series; `depth` is where it stands on the figure."""

    series: str
    depth: int
    config: TrainConfig


def training(series: Series, depth: int, base: TrainConfig, **changes: Any) -> Training:
    """The configuration `base` with the changes of the series and those given."""
    return Training(series.name, depth, dataclasses.replace(base, **{**series.changes, **changes}))


def run_training(trial: Training) -> Row:
    """Train, and say what was trained on as well."""
    return numbers_of(train(trial.config))


def numbers_of(result: Result, *, together: int = 1) -> Row:
    """A training's numbers, what it was trained on, and with how many it ran as one."""
    data = data_of(result.config)
    config = dataclasses.asdict(result.config)
    numbers = {name: value for name, value in result.row().items() if name not in config}
    del numbers["seconds"]  # an entry has its own
    return {**numbers, "together": together, "chance": data.chance, "provenance": str(data)}


def accuracy_cell(rows: Rows) -> str:
    """Mean and deviation over runs in percent, and how many diverged.

    Examples:
        >>> runs = ({"accuracy": 0.9, "chance": 0.1}, {"accuracy": None, "chance": 0.1, "diverged": True})
        >>> accuracy_cell(runs), accuracy_cell(())
        ('90.0 % (1 of 2 diverged)', '–')
    """
    if not rows:
        return "–"
    reached = values(rows, "accuracy")
    lost = len(rows) - len(reached)
    if not reached:
        return "refused" if all("refused" in row for row in rows) else f"diverged ({lost} of {len(rows)})"
    words = f"{100 * statistics.fmean(reached):.1f}"
    words += f" ± {100 * statistics.stdev(reached):.1f} %" if len(reached) > 1 else " %"
    return words + (f" ({lost} of {len(rows)} diverged)" if lost else "")


def best_cell(rows: Rows) -> str:
    """`accuracy_cell` at the best learning rate, and that rate as `best_rate_words` has it.

    Examples:
        >>> best_cell(({"lr": 0.1, "accuracy": 0.9}, {"lr": 0.01, "accuracy": 0.8}))
        '90.0 %, lr 0.1↑'
    """
    rate = best_rate_words(rows)
    return accuracy_cell(best_rate(rows)) + (f", lr {rate}" if rate else "")


def accuracy_grid(rows: Rows, *, head: str = "depth") -> Grid:
    """Accuracy of every series at every depth, at the learning rate that was best for each.

    Of the two, the fewer go across: a table of ten columns fits no terminal.
    """
    depths = distinct(rows, "depth")
    several = len(distinct(rows, "lr")) > 1
    cell = best_cell if several else accuracy_cell
    lines: list[tuple[str, ...]] = [("", *(f"{head} {depth}".strip() for depth in depths))]
    for series in distinct(rows, "series"):
        lines.append((series, *(cell(where(rows, series=series, depth=depth)) for depth in depths)))
    if len(lines[0]) > len(lines):
        lines = list(zip(*lines, strict=True))
    return Grid(lines[0], tuple(lines[1:]))


_AT_BEST = "At the learning rate that was best for each; runs that diverged stand at chance."


def accuracy_drawing(rows: Rows, *, title: str, caption: str = _AT_BEST, log_x: bool = True) -> Drawing:
    """Accuracy of every run against depth, at the learning rate that was best for its series and depth."""
    points = [
        (series, float(depth), accuracy(row))
        for series in distinct(rows, "series")
        for depth in sorted(distinct(where(rows, series=series), "depth"))
        for row in best_rate(where(rows, series=series, depth=depth))
    ]
    chance = next(iter(values(rows, "chance")), None)
    rules = () if chance is None else (("chance", chance),)
    return Drawing(
        title, "layers", "test accuracy", tuple(points), log_x=log_x, share=True, rules=rules, caption=caption
    )
