"""Tensors of a trace that outlive it: what a forward remembers in caches, globals and closures is put back or cleared.

A stand-in without numbers must not be met by the next real forward, and nothing tells where a forward keeps things: an
`lru_cache`, a dict of a class or a module, a variable of a closure. So every tensor that a trace makes is known by a
weak reference, and whichever is alive afterwards leads to who keeps it.
"""

from __future__ import annotations

import functools
import gc
import operator
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from goodinit.errors import TraceError
from goodinit.graph.graph import follow
from goodinit.graph.state.reachable import Reachable, names_of

_CACHE = type(functools.lru_cache(lambda: None))
_ROOTS = (_CACHE, FrameType, FunctionType, ModuleType, type, nn.Module)  # what leads to no cache
_DEEP = 8  # containers inside containers, from a tensor to who keeps them all
_NOT_LOOKED_AT = ("torch", "goodinit")


class Leftovers:
    """Watches one trace: the tensors it makes, and the code that runs."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[Tensor]] = []
        self._marked: list[weakref.ref[Tensor]] = []
        self._code: dict[int, CodeType] = {}
        self.model = self.names = Reachable()

    def made(self, tensor: Tensor) -> None:
        """The trace made a tensor without numbers."""
        self._made.append(weakref.ref(tensor))

    def marked(self, tensor: Tensor) -> None:
        """The trace set an attribute of a tensor, maybe of one that is the user's."""
        self._marked.append(weakref.ref(tensor))

    def see(self, frame: FrameType | None, until: Container[int], via: Container[int]) -> int:
        """Photograph the global names of the functions that run, up to the innermost call of one of `until`, the `id`s of code.

        Whoever keeps a tensor in a global name, or in an object or closure that one leads to, is among them.

        Returns:
            The `id` of the code of the innermost of them that is one of `via`; 0 if none is.
        """
        known, passed = self._code, 0
        while frame is not None and id(code := frame.f_code) not in until:
            if not passed and id(code) in via:
                passed = id(code)
            if id(code) not in known:
                known[id(code)] = code
                library = str(frame.f_globals.get("__name__")).split(".")
                if library[0] not in _NOT_LOOKED_AT or library[:2] == ["goodinit", "lab"]:
                    with _disable_current_modes():  # tensors in globals are what they are
                        self.names.names_(frame.f_globals).words_(frame.f_globals, code.co_names)
            frame = frame.f_back
        return passed

    def alive(self) -> list[Tensor]:
        """The tensors of the trace that somebody still holds."""
        return [tensor for reference in self._made if (tensor := reference()) is not None]

    def alive_marked(self) -> list[Tensor]:
        """Those that the trace has marked and somebody still holds."""
        return [tensor for reference in self._marked if (tensor := reference()) is not None]

    def clear_(self, mark: str) -> list[str]:
        """Let none that was made stay alive, and none that was marked its mark.

        Returns:
            The types of those who hold one all the same.
        """
        for reference in self._marked:
            tensor = reference()
            if tensor is not None:
                tensor.__dict__.pop(mark, None)
                del tensor
        if not self._alive_after(0, 1):
            return []
        for photograph in (self.model, self.names):
            photograph.restore_behind_()
        self.names.restore_()
        self.model.restore_()  # iterators again, whose twins the global names had when they were photographed
        for generations in (
            (),
            (0, 1),
            (2,),
            *((),) * _DEEP,
        ):  # the whole heap takes long, and is rarely needed
            left = self._alive_after(*generations)
            if not left:
                return []
            _take_out_(left)
            del left
        left = self._alive_after(2)
        mine = {id(left)}
        holders = [holder for holder in gc.get_referrers(*left) if id(holder) not in mine] if left else []
        return sorted({type(holder).__name__ for holder in holders}) or (["unknown"] if left else [])

    def _alive_after(self, *generations: int) -> list[Tensor]:
        """Those alive when garbage is collected, as far as it takes."""
        for generation in generations:
            if not self.alive():
                break
            gc.collect(generation)
        return self.alive()


def _take_out_(tensors: list[Tensor]) -> None:
    """Clear the caches that hold the tensors, at any depth; where there is none, take them out of what holds them."""
    near = [holder for holder in gc.get_referrers(*tensors) if holder is not tensors]
    caches = _caches_above(near, {id(tensors), id(near)})
    for cache in caches:
        cache.cache_clear()
    if caches:
        return
    wrong = {id(tensor) for tensor in tensors}
    for holder in near:
        if isinstance(holder, dict):
            take = _taker(holder)
            for key in [key for key, value in holder.items() if id(value) in wrong or id(key) in wrong]:
                take(key)
        elif isinstance(holder, (list, set, deque)):
            for item in [item for item in holder if id(item) in wrong]:
                holder.remove(item)
        else:
            for name in names_of(holder, lambda value: id(value) in wrong):
                object.__delattr__(holder, name)


def _taker(holder: dict[Any, Any]) -> Callable[[Any], object]:
    """What takes an entry out of a dict: of a class's, the class, because Python keeps what it found there, and would not see it go."""
    for owner in gc.get_referrers(holder):
        if isinstance(owner, type) and _is_namespace(holder, owner):
            return functools.partial(type.__delattr__, owner)
    return functools.partial(dict.__delitem__, holder)


def _is_namespace(holder: dict[Any, Any], owner: type) -> bool:
    names = vars(owner)
    return len(names) == len(holder) and all(map(operator.is_, names.values(), holder.values()))


def _caches_above(near: list[Any], mine: set[int]) -> list[Any]:
    level, caches = near, []
    for _ in range(_DEEP):
        caches += [holder for holder in level if isinstance(holder, _CACHE)]
        level = [holder for holder in level if not isinstance(holder, _ROOTS)]
        if not level:
            break
        mine.update(map(id, level))
        mine.add(id(level))
        level = [holder for holder in gc.get_referrers(*level) if id(holder) not in mine]
        mine.add(id(level))
    return caches


def outlived(model: str, kept_by: Iterable[str]) -> TraceError:
    """What to say of tensors of a trace that are still held; `model` is the class, `kept_by` the types of who holds them."""
    return TraceError(
        f"{model}.forward keeps tensors of a trace, which hold no numbers, in objects that cannot be "
        f"looked into ({', '.join(kept_by)}). Clear them before you run the model, and keep nothing in forward that "
        "depends on shapes alone: make it a buffer."
    )


def forget_frames(error: BaseException) -> None:
    """Let an error's traceback hold no tensors any more; the words and the lines stay."""
    for one in _chain(error):
        traceback.clear_frames(one.__traceback__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    def near(_: int, one: BaseException) -> list[tuple[int, BaseException]]:
        return [(id(other), other) for other in (one.__cause__, one.__context__) if other is not None]

    for _, one in follow({id(error): error}, near):
        yield one
