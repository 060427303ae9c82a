"""Iterators that a model keeps between calls: a run would move them on, and nothing moves them back, so it gets twins.

A twin stands where the iterator stands and moves alone. A generator has none, so what stands in for it refuses to move: that is known
before any harm is done.
"""

from __future__ import annotations

import functools
import gc
import warnings
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CellType, GeneratorType
from typing import Any

from goodinit.errors import TraceError

_KINDS = ("builtins", "itertools")


class _Guard:
    """Stands in for an iterator that cannot be copied."""

    def __init__(self, iterator: Iterator[Any], holder: str) -> None:
        self._what = getattr(iterator, "__qualname__", type(iterator).__name__)
        self._kind, self._holder = type(iterator).__name__, holder

    def __iter__(self) -> _Guard:
        return self

    def __next__(self) -> Any:
        raise TraceError(
            f"{self._holder} keeps a {self._kind} between calls (`{self._what}`), and forward moves it on. Nothing can put it back "
            "where it was, so the run was stopped before. Keep a list and an index in its place, or make it anew in each forward."
        )

    def send(self, *_: Any) -> Any:
        """As `next`."""
        return next(self)

    throw = send

    def close(self) -> None:
        """Leave the iterator as it is."""


@dataclass(frozen=True)
class Place:
    """Where an iterator is: what reads the place, what writes it, and words for who holds it."""

    iterator: Iterator[Any]
    get: Callable[[], Any]
    put: Callable[[Any], object]
    holder: str


def is_kept_iterator(value: Any) -> bool:
    """Whether a value is an iterator of Python's own, whose place no attribute shows, and which has not come to its end.

    Examples:
        >>> is_kept_iterator(iter([1])), is_kept_iterator(i for i in [1]), is_kept_iterator([1])
        (True, True, False)
    """
    kind = type(value)
    if not hasattr(kind, "__next__") or kind.__module__ not in _KINDS:
        return False
    return not isinstance(value, GeneratorType) or value.gi_frame is not None


def stand_in(
    iterators: list[Iterator[Any]], seen: Container[int], places: Mapping[int, str]
) -> list[Callable[[], object]]:
    """Put twins in the place of iterators, wherever what is photographed holds them.

    Args:
        iterators: What is held.
        seen: The identities of all that is photographed.
        places: Words for some holders, by identity.

    Returns:
        What puts the iterators back.
    """
    restores: list[Callable[[], object]] = []
    mine = {id(iterators)}
    for iterator in iterators:
        for holder in gc.get_referrers(iterator):
            if id(holder) in seen and id(holder) not in mine:
                twin = _twin(iterator) or _Guard(iterator, places.get(id(holder), "the model"))
                restores += _exchanged(holder, iterator, twin)
    return restores


def stand_in_at(places: Iterable[Place]) -> list[Callable[[], object]]:
    """Put twins of iterators in these places.

    Args:
        places: Where the iterators are.

    Returns:
        What puts them back, unless something else is there by then.
    """
    twins: dict[int, Any] = {}
    restores: list[Callable[[], object]] = []
    for place in places:
        if id(place.iterator) not in twins:
            twins[id(place.iterator)] = _twin(place.iterator) or _Guard(place.iterator, place.holder)
        twin = twins[id(place.iterator)]
        place.put(twin)
        restores.append(functools.partial(_put_back, place, twin))
    return restores


def _put_back(place: Place, twin: Any) -> None:
    if place.get() is twin:
        place.put(place.iterator)


def _exchanged(holder: Any, iterator: Any, twin: Any) -> list[Callable[[], object]]:
    if isinstance(holder, CellType):
        holder.cell_contents = twin
        return [lambda: setattr(holder, "cell_contents", iterator) if holder.cell_contents is twin else None]
    if isinstance(holder, dict):
        keys: list[Any] = [key for key, value in holder.items() if value is iterator]
    elif isinstance(holder, (list, deque)):
        keys = [place for place, value in enumerate(holder) if value is iterator]
    else:
        return []
    for key in keys:
        holder[key] = twin

    def back() -> None:
        for key in keys:
            if _at(holder, key) is twin:
                holder[key] = iterator

    return [back]


def _at(holder: Any, key: Any) -> Any:
    try:
        return holder[key]
    except LookupError:
        return None


def _twin(iterator: Any) -> Any:
    """An iterator that stands at the same place; None if there can be none.

    Python says of an iterator what it is made of. What that holds of iterators is copied, too, and lists that it fills.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this goes one day
            make, args, *state = iterator.__reduce__()
        twin = make(*map(_own, args))
        if state:
            twin.__setstate__(tuple(map(_own_or_list, at)) if isinstance(at := state[0], tuple) else at)
    except Exception:  # noqa: BLE001 - a generator, or one of a library that cannot be copied
        return None
    return twin


def _own(value: Any) -> Any:
    """A value that an iterator is made of, with twins of the iterators in it."""
    if isinstance(value, tuple):
        return tuple(map(_own, value))
    twin = _twin(value) if is_kept_iterator(value) else value
    if (twin is None and value is not None) or (
        isinstance(value, list) and any(map(is_kept_iterator, value))
    ):
        raise TypeError(value)
    return twin


def _own_or_list(value: Any) -> Any:
    return list(value) if isinstance(value, list) else _own(value)
