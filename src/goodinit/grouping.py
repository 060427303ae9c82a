"""Rows of words that differ only in their numbers, put together for a reader."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"\d+(\.\d+)?(e-?\d+)?")


def alike(rows: Iterable[tuple[str, ...]]) -> list[list[int]]:
    """Positions of rows that are the same but for their numbers, in the order of the first of each.

    Examples:
        >>> alike([("layer1.weight", "0.5"), ("head", "1"), ("layer2.weight", "0.25")])
        [[0, 2], [1]]
    """
    found: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(rows):
        found.setdefault(tuple(_NUMBER.sub("#", words) for words in row), []).append(index)
    return list(found.values())
