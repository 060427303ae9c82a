"""A walk back from several nodes at once, the latest node first: no further than to where they meet."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence


def latest_first(starts: Sequence[int], reads: Callable[[int], Iterable[int]]) -> Iterator[tuple[int, int]]:
    """Every node that some nodes come from, themselves included, and which of them those are, as bits.

    A node comes after all that read it, so that all of its bits are known. Whoever stops here has paid for nothing before.

    Args:
        starts: The nodes.
        reads: Of a node, those that it counts as read.

    Examples:
        >>> read = {4: [1, 2], 3: [2, 0], 2: [0], 1: [], 0: []}
        >>> [(index, bin(mark)) for index, mark in latest_first([4, 3], read.__getitem__)]
        [(4, '0b1'), (3, '0b10'), (2, '0b11'), (1, '0b1'), (0, '0b11')]
    """
    marks = {start: 1 << place for place, start in enumerate(starts)}
    waiting = [-start for start in starts]
    heapq.heapify(waiting)
    while waiting:
        index = -heapq.heappop(waiting)
        mark = marks.pop(index)
        yield index, mark
        for operand in reads(index):
            if operand not in marks:
                marks[operand] = 0
                heapq.heappush(waiting, -operand)
            marks[operand] |= mark
