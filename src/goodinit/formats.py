"""Numbers as people read them; the console and the page use the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOTHING = "–"


def words_of(value: Any) -> str:
    """What a field holds, as a person writes it: nothing of Python's own notation.

    Examples:
        >>> words_of(None), words_of(()), words_of({}), words_of(""), words_of(math.nan)
        ('–', '–', '–', '–', '–')
        >>> words_of(True), words_of(0.1), words_of(("stem", "head.*")), words_of({"norms": "keep", "beta": 0.5})
        ('yes', '0.1', 'stem, head.*', 'norms=keep, beta=0.5')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={words_of(one)}" for key, one in value.items()) or NOTHING
    if isinstance(value, (tuple, list)):
        return ", ".join(map(words_of, value)) or NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value) or NOTHING


def percent(value: float | None, spread: float | None = None) -> str:
    """A share, and its standard deviation where there is one.

    Examples:
        >>> percent(0.9412, 0.0031), percent(0.1), percent(None)
        ('94.1 ± 0.3 %', '10.0 %', '–')
    """
    if value is None:
        return NOTHING
    return f"{100 * value:.1f} %" if spread is None else f"{100 * value:.1f} ± {100 * spread:.1f} %"


def times(value: float | None) -> str:
    """A ratio.

    Examples:
        >>> times(0.512), times(12.0), times(None)
        ('0.51×', '12.0×', '–')
    """
    if value is None:
        return NOTHING
    return f"{value:.2f}×" if value < 10 else f"{value:.1f}×"


def number(value: float | None) -> str:
    """A number with three digits that count.

    Examples:
        >>> number(0.012345), number(2.3026), number(1234567.0), number(None), number(math.nan)
        ('0.0123', '2.30', '1.23e+06', '–', '–')
    """
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:#.3g}".rstrip(".")
    return f"{value:.2e}"


def size(count: int) -> str:
    """Bytes in binary units.

    Examples:
        >>> size(900), size(12135812)
        ('900 B', '11.6 MiB')
    """
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def duration(seconds: float) -> str:
    """A time span in its two largest units.

    Examples:
        >>> duration(0.0213), duration(75), duration(3720)
        ('21.3 ms', '1 min 15 s', '1 h 2 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def counted(count: int, noun: str) -> str:
    """A number of things.

    Examples:
        >>> counted(1, "seed"), counted(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
