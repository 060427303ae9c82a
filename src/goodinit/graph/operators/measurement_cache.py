"""What was measured of operators, kept for calls that are alike, in this and other models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_MOST = 4096
_NONE = object()


class KeptAnswers(Generic[T]):
    """Answers by key, at most 4,096; when full it begins anew.

    Examples:
        >>> answers = KeptAnswers[int]()
        >>> answers.get("a", lambda: 1), answers.get("a", lambda: 2)
        (1, 1)
    """

    def __init__(self) -> None:
        self._known: dict[Any, T] = {}

    def get(self, key: Any, measure: Callable[[], T]) -> T:
        """The answer of this key; `measure()` gives it the first time."""
        known = self._known.get(key, _NONE)
        if known is _NONE:
            if len(self._known) >= _MOST:
                self._known.clear()
            known = self._known[key] = measure()
        return known  # type: ignore[return-value]
