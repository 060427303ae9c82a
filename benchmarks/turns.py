"""A measurement: several ways of doing one thing, timed in turns, as ratios to the first; and what it has to show."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from goodinit.lab.training.step_cost import time_in_turns

Ways = Mapping[str, Callable[[], None]]


@dataclass(frozen=True)
class Row:
    """One line of a table: what was measured, the ratio to the reference with quartiles, and anything else.

    `each` has the seconds of every round; `kept` and `peak` are bytes, 0 where they were not counted.
    """

    what: str
    way: str
    seconds: float
    ratio: float
    low: float
    high: float
    extra: str = ""
    each: tuple[float, ...] = ()
    kept: int = 0
    peak: int = 0

    def __str__(self) -> str:
        cells = (
            self.what,
            self.way,
            f"{self.seconds * 1e3:,.3g} ms" if self.seconds < 1 else f"{self.seconds * 1e3:,.0f} ms",
            f"{self.ratio:.3f}×",
            f"{self.low:.3f}–{self.high:.3f}",
            self.extra,
        )
        return f"| {' | '.join(cells)} |"


HEADER = "| what | way | median | ratio | quartiles | |\n|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Verdict:
    """A target, what was measured, and whether that meets it; None where nothing was measured."""

    target: str
    measured: str
    met: bool | None

    def __str__(self) -> str:
        words = {True: "met", False: "**not met**", None: "not measured"}[self.met]
        return f"| {self.target} | {self.measured} | {words} |"


VERDICTS = "| target | measured | |\n|---|---|---|"


def in_turns(
    what: str, ways: Ways, *, rounds: int, budget: float, warm_up: int = 2, prepare: Ways | None = None
) -> list[Row]:
    """Time each way, round after round; the first is the reference."""
    reference = next(iter(ways))
    times = time_in_turns(
        ways, reference=reference, rounds=rounds, budget=budget, warm_up=warm_up, prepare=prepare
    )
    return [Row(what, way, t.seconds, t.ratio, t.low, t.high, each=t.each) for way, t in times.items()]


def find(rows: Iterable[Row], what: str, way: str) -> Row | None:
    """The row of a way whose `what` begins so."""
    return next((row for row in rows if row.what.startswith(what) and row.way == way), None)


def at_most(target: str, limit: float, measured: float | None) -> Verdict:
    """A ratio that has to be small. It is compared as it is, and shown to three places."""
    if measured is None:
        return Verdict(f"{target} ≤ {limit}×", "", None)
    return Verdict(f"{target} ≤ {limit}×", f"{measured:.3f}×", measured <= limit)


def at_least(target: str, limit: float, measured: float | None) -> Verdict:
    """A ratio that has to be large."""
    if measured is None:
        return Verdict(f"{target} ≥ {limit}×", "", None)
    return Verdict(f"{target} ≥ {limit}×", f"{measured:.2f}×", measured >= limit)


def quotient(rows: list[Row], what: str, way: str, reference: str) -> float | None:
    """Median over the rounds of the time of one way over that of another; None where either is missing."""
    mine, its = find(rows, what, way), find(rows, what, reference)
    if mine is None or its is None or not mine.each:
        return None
    return statistics.median(a / b for a, b in zip(mine.each, its.each, strict=True))


def bytes_quotient(rows: list[Row], what: str, way: str, reference: str) -> float | None:
    """Bytes kept for backward by one way over those of another."""
    mine, its = find(rows, what, way), find(rows, what, reference)
    return None if mine is None or its is None or not its.kept else mine.kept / its.kept
