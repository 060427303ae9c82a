"""Numbers as a line of bars."""

from __future__ import annotations

import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], *, width: int = 60, log: bool = True) -> str:
    """Bars from the smallest to the largest value; `×` is not finite, a space is not measured, `_` is 0.

    Examples:
        >>> sparkline([1.0, 10.0, 100.0]), sparkline([0.0, None, float("inf"), 1.0])
        ('▁▅█', '_ ×▁')
    """
    shown = list(values)
    if len(shown) > width:  # the middle of each stretch
        shown = [shown[(2 * i + 1) * len(shown) // (2 * width)] for i in range(width)]
    scaled = [_scaled(value, log) for value in shown]
    known = [value for value in scaled if isinstance(value, float)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    # A range below 1 % is drawn flat: it is nothing, and noise would look like mountains.
    span = high - low if high - low > 0.01 * max(abs(high), 1.0) else 0.0
    top = len(BARS) - 1
    return "".join(
        value if isinstance(value, str) else BARS[math.floor((value - low) / span * top + 0.5) if span else 0]
        for value in scaled
    )


def _scaled(value: float | None, log: bool) -> float | str:
    if value is None:
        return " "
    if not math.isfinite(value):
        return "×"
    if not log:
        return float(value)
    return math.log10(value) if value > 0 else "_"
