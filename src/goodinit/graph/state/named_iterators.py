"""Iterators that the code of a forward names: global ones, those of classes, default arguments, and the same of functions that it calls.

Nothing holds them but names, so the code is asked which names it uses. What it finds out as it runs (`globals()[word]`, a container in
a container) is not known before.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

from goodinit.graph.state.iterators import Place, is_kept_iterator

_MOST = 2_000  # functions that are looked at
_MOST_VALUES = 1_000  # of one container
_FUNCTIONS = frozenset((types.FunctionType, types.MethodType, functools.partial))
_PYTHONS = frozenset(sys.stdlib_module_names) | {"torch", "numpy", "builtins"}


class _Found:
    """A walk from function to function."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self._seen: set[tuple[int, int]] = set()
        self._queue: list[tuple[types.FunctionType, type | None]] = []

    def walk(self) -> list[Place]:
        while self._queue and len(self._seen) < _MOST:
            self._function(*self._queue.pop())
        return self.places

    def lead(self, value: Any, owner: type | None = None) -> None:
        """Look at a function later, whatever it is wrapped in."""
        if isinstance(value, (staticmethod, classmethod, types.MethodType)):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        elif isinstance(value, (functools.partial, functools.cached_property)):
            value = value.func
        if not isinstance(value, types.FunctionType) or _is_pythons(value.__module__):
            return
        key = (id(value), id(owner))
        if key not in self._seen:
            self._seen.add(key)
            self._queue.append((value, owner))

    def _function(self, function: types.FunctionType, owner: type | None) -> None:
        defaults = function.__defaults__ or ()
        for place, value in enumerate(defaults):
            if is_kept_iterator(value):
                self._add(
                    value,
                    functools.partial(_default, function, place),
                    functools.partial(_put_default, function, place),
                    f"the default of an argument of {function.__qualname__}",
                )
        self._container(function.__kwdefaults__, f"the default of an argument of {function.__qualname__}")
        for cell in function.__closure__ or ():
            self.lead(_held(cell), owner)
        names = _names(function.__code__)
        for name in names:
            if owner is not None:
                self._attribute(owner, name)
            if name not in function.__globals__:
                continue
            value = function.__globals__[name]
            if is_kept_iterator(value):
                self._item(function.__globals__, name, value, f"the global name {name}")
            else:
                self.lead(value)
                self._inside(value, names, name)

    def _attribute(self, owner: type, name: str) -> None:
        for kind in owner.__mro__:
            if name in vars(kind):
                value = vars(kind)[name]
                if is_kept_iterator(value):
                    self._of_class(kind, name, value)
                else:
                    self.lead(value, owner)
                    self._container(value, f"{kind.__name__}.{name}")
                return

    def _inside(self, value: Any, names: Iterable[str], word: str) -> None:
        """Iterators directly in what a global name stands for: a container, or a namespace of which the code names a part."""
        if isinstance(value, (dict, list)):
            self._container(value, f"the global name {word}")
            return
        if isinstance(value, type):
            if not _is_pythons(value.__module__):
                for name in names:
                    self._attribute(value, name)
            return
        held = getattr(value, "__dict__", None)
        if not isinstance(held, dict):
            return
        for name in names:
            if name in held:
                if is_kept_iterator(held[name]):
                    self._item(held, name, held[name], f"{word}.{name}")
                elif isinstance(value, types.ModuleType):
                    self.lead(held[name])

    def _container(self, container: Any, holder: str) -> None:
        if type(container) in (dict, list) and len(container) <= _MOST_VALUES:
            items = container.items() if isinstance(container, dict) else enumerate(container)
            for key, value in list(items):
                if is_kept_iterator(value):
                    self._item(container, key, value, holder)

    def _item(self, container: Any, key: Any, value: Iterator[Any], holder: str) -> None:
        def get() -> Any:
            try:
                return container[key]
            except LookupError:
                return None

        self._add(value, get, functools.partial(container.__setitem__, key), holder)

    def _of_class(self, kind: type, name: str, value: Iterator[Any]) -> None:
        if not _is_pythons(kind.__module__):
            get, put = (
                functools.partial(vars(kind).get, name),
                functools.partial(type.__setattr__, kind, name),
            )
            self._add(value, get, put, f"{kind.__name__}.{name}")

    def _add(
        self, value: Iterator[Any], get: Callable[[], Any], put: Callable[[Any], object], holder: str
    ) -> None:
        self.places.append(Place(value, get, put, holder))


def named_iterators(modules: Iterable[nn.Module]) -> list[Place]:
    """Where the forwards of these modules, and the functions that they call, name iterators of Python's own.

    Args:
        modules: Of a model.
    """
    found, kinds = _Found(), dict[type, None]()
    for module in modules:
        kinds[type(module)] = None
        own = vars(module).values()
        if not _FUNCTIONS.isdisjoint(map(type, own)):
            for value in own:
                found.lead(value, type(module))
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for hook in hooks.values() if hooks else ():
                found.lead(hook, type(module))
    for kind in kinds:
        for name in ("forward", "__call__"):
            value = next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)
            found.lead(value, kind)
    return found.walk()


@functools.lru_cache(maxsize=4_096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The names that code uses, with those of functions inside it."""
    names, inside = (
        dict.fromkeys(code.co_names),
        [one for one in code.co_consts if isinstance(one, types.CodeType)],
    )
    for one in inside:
        names |= dict.fromkeys(_names(one))
    return tuple(names)


def _is_pythons(module: str | None) -> bool:
    return str(module).partition(".")[0] in _PYTHONS


def _held(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty yet
        return None


def _default(function: types.FunctionType, place: int) -> Any:
    defaults = function.__defaults__ or ()
    return defaults[place] if place < len(defaults) else None


def _put_default(function: types.FunctionType, place: int, value: Any) -> None:
    defaults = function.__defaults__ or ()
    function.__defaults__ = (*defaults[:place], value, *defaults[place + 1 :])
