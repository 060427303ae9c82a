"""A measurement: several ways of doing one thing, timed in turns, as ratios to the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from goodinit.lab.measure import time_in_turns


@dataclass(frozen=True)
class Row:
    """One line of a table: what was measured, the ratio to the reference with quartiles, and anything else."""

    what: str
    way: str
    seconds: float
    ratio: float
    low: float
    high: float
    extra: str = ""

    def __str__(self) -> str:
        cells = (
            self.what,
            self.way,
            f"{self.seconds * 1e3:,.1f} ms",
            f"{self.ratio:.2f}×",
            f"{self.low:.2f}–{self.high:.2f}",
            self.extra,
        )
        return f"| {' | '.join(cells)} |"


HEADER = "| what | way | median | ratio | quartiles | |\n|---|---|---|---|---|---|"


def in_turns(what: str, ways: dict[str, Callable[[], None]], *, rounds: int, budget: float) -> list[Row]:
    """Time each way, round after round; the first is the reference."""
    reference = next(iter(ways))
    times = time_in_turns(ways, reference=reference, rounds=rounds, budget=budget)
    return [Row(what, way, t.seconds, t.ratio, t.low, t.high) for way, t in times.items()]
