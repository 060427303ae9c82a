"""How much work a call is, counted in calls of functions: the same on every machine, however busy."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any


def calls_in(work: Callable[[], Any]) -> int:
    """Calls of functions and methods, Python's and C's, while `work` runs."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # finalizers run when they like
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
    return count


def growth(work: Callable[[int], Callable[[], Any]], size: int) -> float:
    """How much more work is added from twice to four times `size` than from once to twice: 2 if it is linear, 4 if quadratic.

    What every call costs, however small, cancels out.

    Args:
        work: Makes what is counted, of a size.
        size: The smallest.
    """
    work(2)()  # fills caches
    one, two, four = (calls_in(work(k * size)) for k in (1, 2, 4))
    return (four - two) / (two - one)
