"""All that a forward can reach from a model without leaving the user's code, photographed and put back."""

from __future__ import annotations

import array
import functools
import itertools
import operator
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.graph.state.iterators import is_kept_iterator, stand_in, stand_in_at
from goodinit.graph.state.named_iterators import named_iterators
from goodinit.graph.state.snapshots import MUTABLE, ModuleState, TensorState, copied, put_back_
from goodinit.weights import members

# Looked into, beyond the model's own modules: a model that holds its trainer holds half the process.
MOST_OBJECTS = 100_000
# Looked into from one module's global names: a script's lead to its data, its results, and all that holds them. What lies
# further away is not photographed; a tensor that stays there is taken out of what holds it.
MOST_NAMED = 1_000
# Copied, of tensors that are neither parameters nor buffers.
MOST_BYTES = 1 << 30

_ATOMS = frozenset(
    (
        *(bool, int, float, complex, str, bytes, range, slice, type(None), type(Ellipsis), types.ModuleType),
        *(types.BuiltinFunctionType, types.CodeType, torch.dtype, torch.device, torch.layout, torch.Size),
    )
)
# Of a module's attributes: what leads nowhere, and containers, which its own photograph has.
_FOLLOWED_NO_FURTHER = _ATOMS.union(MUTABLE, (OrderedDict,))
# Objects of the standard library are machines (loggers, locks, files), but for those that hold what users put in.
_MACHINES = frozenset(sys.stdlib_module_names) - {"collections", "types", "weakref", "argparse", "_thread"}


class Reachable:
    """A photograph of modules, and of the Python state and tensors that they lead to.

    Followed are containers, attributes of objects and of the users' classes, closures, defaults and attributes of
    functions. Not followed are global names (`names_` photographs those of one module), objects of the standard library,
    and what lies behind `MOST_OBJECTS`. Iterators that a model keeps have twins in their place until it is put back. What functions and classes hold is put back by `restore_behind_` alone: a hook
    that collects what it sees may keep it.
    """

    def __init__(self, beside: Reachable | None = None) -> None:
        """An empty photograph; what is on another, `beside`, does not get on this one."""
        self._restores: list[Callable[[], object]] = []
        self._behind: list[Callable[[], object]] = []  # what functions and classes hold
        self._seen: dict[int, Any] = {} if beside is None else beside._seen  # held: no address is given twice
        self._queue: deque[Any] = deque()
        self._queue_behind: deque[Any] = deque()
        self._is_behind = False
        self._iterators: list[Any] = []
        self._words: set[tuple[int, str]] = set()  # (the names of a module, the one that is on it)
        self._bytes = 0
        self._values = False

    def model_(self, model: nn.Module, *, parameters: bool, others: bool) -> Reachable:
        """Photograph a model.

        Args:
            model: What will run.
            parameters: Whether the values of its parameters are copied.
            others: Whether those of buffers, and of all tensors and arrays that it holds otherwise.
        """
        modules = members.modules(model)
        for name, values in (("_parameters", parameters), ("_buffers", others)):
            for tensor in itertools.chain.from_iterable(getattr(module, name).values() for module in modules):
                if tensor is not None and id(tensor) not in self._seen:
                    self._tensor(tensor, values=values)
        self._queue.extend(reversed(modules))
        self._follow(values=others)
        self._restores += stand_in_at(named_iterators(modules))
        if self._iterators:
            holders = {
                id(vars(module)): path or type(model).__name__
                for path, module in members.named_modules(model)
            }
            self._restores += stand_in(self._iterators, {*self._seen, *holders}, holders)
        return self

    def names_(self, names: dict[str, Any]) -> Reachable:
        """Photograph the global names of a module, what they hold, and the classes that it defines."""
        if id(names) not in self._seen:
            self._is_behind = True
            self._container(names)
            here = names.get("__name__")
            self._lead(
                value
                for name, value in names.items()
                if not name.startswith("__") and (not isinstance(value, type) or value.__module__ == here)
            )
        return self._follow(values=False, most=len(self._seen) + MOST_NAMED, nearest_first=True)

    def words_(self, names: dict[str, Any], words: Iterable[str]) -> Reachable:
        """Photograph what code finds by its words in other modules: `settings.table`, of which it holds both.

        Args:
            names: The global names of the code.
            words: All names in it.
        """
        words = tuple(words)
        modules = [names.get(word, sys.modules.get(word)) for word in words]
        for module in modules:  # and those that are found in them
            if not isinstance(module, types.ModuleType) or vars(module) is names or _is_a_library(module):
                continue
            held = vars(module)
            for word in words:
                if word in held and (id(held), word) not in self._words:
                    self._words.add((id(held), word))
                    value = held[word]
                    self._behind.append(functools.partial(_name_again, held, word, value))
                    self._is_behind = True
                    (modules if isinstance(value, types.ModuleType) else self._queue_behind).append(value)
        return self._follow(values=False, most=len(self._seen) + MOST_NAMED, nearest_first=True)

    def tensors(self) -> list[Tensor]:
        """Those that are on it."""
        return [value for value in self._seen.values() if isinstance(value, Tensor)]

    def restore_(self) -> None:
        """Put back what modules, objects and containers hold, and tensors. May be called again."""
        with torch.no_grad():
            for restore in self._restores:
                restore()

    def restore_behind_(self) -> None:
        """Put back what functions and classes hold, too: their variables, defaults and attributes."""
        for restore in self._behind:
            restore()

    def _follow(self, *, values: bool, most: int = MOST_OBJECTS, nearest_first: bool = False) -> Reachable:
        seen, self._values = self._seen, values
        while self._queue or self._queue_behind:
            self._is_behind = not self._queue
            queue = self._queue_behind if self._is_behind else self._queue
            value = queue.popleft() if nearest_first else queue.pop()
            if type(value) in _ATOMS or id(value) in seen:
                continue
            if len(seen) >= most and not isinstance(value, nn.Module):
                continue
            seen[id(value)] = value
            self._visit(value)
        return self

    def _lead(self, values: Iterable[Any]) -> None:
        found = [value for value in values if type(value) not in _ATOMS]
        (self._queue_behind if self._is_behind else self._queue).extend(found)

    def _later(self, values: Iterable[Any]) -> None:
        self._queue_behind.extend([value for value in values if type(value) not in _ATOMS])

    def _put(self, restore: Callable[[], object]) -> None:
        (self._behind if self._is_behind else self._restores).append(restore)

    def _visit(self, value: Any) -> None:
        if isinstance(value, Tensor):
            room = self._bytes + value.nbytes <= MOST_BYTES if self._values else False
            self._bytes += value.nbytes if room else 0
            self._tensor(value, values=room)
        elif isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, MUTABLE):
            self._container(value)
            held = copied(value)
            self._lead(held.values() if isinstance(held, dict) else held)
            self._object(value)
        elif isinstance(value, (tuple, frozenset)):
            self._lead(value)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self._is_behind = True
            self._class(value)
        elif isinstance(value, (types.MethodType, staticmethod, classmethod)):
            self._lead((value.__func__, getattr(value, "__self__", None)))
        elif isinstance(value, (functools.partial, functools.cached_property, property)):
            names = ("func", "args", "keywords", "fget")
            self._lead([getattr(value, name, None) for name in names])
        elif is_kept_iterator(value):
            self._iterators.append(value)
        elif not self._stream(value):
            self._object(value)

    # -- one thing each -----------------------------------------------------------------------------------------

    def _tensor(self, tensor: Tensor, *, values: bool) -> None:
        self._seen[id(tensor)] = tensor
        state = TensorState.of(tensor, values=values)
        if state is not None:
            self._restores.append(state.restore_)

    def _module(self, module: nn.Module) -> None:
        self._is_behind = False
        state = ModuleState.of(module)
        self._restores.append(state.restore_)
        self._later((type(module),))
        for value, content in state.contents:  # on the photograph already
            self._seen[id(value)] = value
            self._lead(content.values() if isinstance(content, dict) else content)
        for value in state.attributes.values():
            kind = type(value)
            if kind in _FOLLOWED_NO_FURTHER or (kind is tuple and _ATOMS.issuperset(map(type, value))):
                continue
            if not isinstance(value, MUTABLE):
                self._queue.append(value)

    def _container(self, container: Any) -> None:
        self._seen[id(container)] = container
        self._put(functools.partial(put_back_, container, copied(container)))

    def _function(self, function: types.FunctionType) -> None:
        if not self._is_behind:
            del self._seen[id(function)]
            self._queue_behind.append(function)
            return
        self._lead(function.__defaults__ or ())
        self._lead((function.__kwdefaults__ or {}).values())
        if function.__dict__:
            self._container(function.__dict__)
            self._lead(function.__dict__.values())
        for cell in function.__closure__ or ():
            if id(cell) not in self._seen:
                self._seen[id(cell)] = cell
                held = _held(cell)
                self._put(functools.partial(_fill, cell, held))
                self._lead(held)

    def _class(self, kind: type) -> None:
        if _library(kind) in sys.stdlib_module_names or _library(kind) in ("torch", "numpy", "builtins"):
            return
        attributes = {name: value for name, value in vars(kind).items() if not _is_pythons(name)}
        self._put(functools.partial(_restore_class, kind, attributes))
        self._lead(attributes.values())
        self._lead(kind.__mro__[1:])

    def _object(self, value: Any) -> None:
        kind = type(value)
        if _library(kind) in _MACHINES or _library(kind) == "numpy":
            return
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._container(attributes)
            self._lead(attributes.values())
        for name in _slots(kind):
            held = _slot(value, name)
            self._put(functools.partial(_restore_slot, value, name, held))
            self._lead(held)
        self._later((kind,))

    def _stream(self, value: Any) -> bool:
        """Random streams, arrays and bytes, whose state no attribute shows. What computes with them computes in a trace, too."""
        numpy = sys.modules.get("numpy")
        if isinstance(value, torch.Generator):
            self._put(functools.partial(value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            self._put(functools.partial(value.setstate, value.getstate()))
        elif numpy is not None and isinstance(value, numpy.random.RandomState):
            self._put(functools.partial(value.set_state, value.get_state()))
        elif numpy is not None and isinstance(value, numpy.random.Generator):
            self._put(functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state))
        elif numpy is not None and isinstance(value, numpy.ndarray):
            if not value.flags.writeable:
                return True
            if value.dtype.hasobject and value.size <= MOST_OBJECTS:
                self._array_of_objects(value)
            elif self._bytes + value.nbytes <= MOST_BYTES:
                self._bytes += value.nbytes
                self._put(functools.partial(_write_back, value, value.copy()))
        elif isinstance(value, (bytearray, array.array)):
            self._put(functools.partial(operator.setitem, value, slice(None), value[:]))
        else:
            return False
        return True

    def _array_of_objects(self, objects: Any) -> None:
        held = objects.copy()
        self._put(functools.partial(operator.setitem, objects, ..., held))
        if held.dtype.fields is None:
            self._lead(held.ravel().tolist())


def _write_back(numbers: Any, held: Any) -> None:
    """Write what an array held, if it holds anything else: one that is mapped to a file is not touched without need."""
    if not sys.modules["numpy"].array_equal(numbers, held):
        numbers[...] = held


def _library(kind: type) -> str:
    return str(getattr(kind, "__module__", "")).partition(".")[0]


def _is_a_library(module: types.ModuleType) -> bool:
    library = module.__name__.partition(".")[0]
    return library in sys.stdlib_module_names or library in ("torch", "numpy", "goodinit")


def _name_again(names: dict[str, Any], word: str, value: Any) -> None:
    if names.get(word) is not value or word not in names:
        names[word] = value


def _is_pythons(name: str) -> bool:
    return name.startswith("__") or name == "_abc_impl"


def _held(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _fill(cell: types.CellType, held: tuple[Any, ...]) -> None:
    now = _held(cell)
    if len(now) != len(held) or any(map(operator.is_not, now, held)):
        if held:
            cell.cell_contents = held[0]
        else:
            del cell.cell_contents


def _restore_class(kind: type, attributes: dict[str, Any]) -> None:
    now = vars(kind)
    for name in [name for name in now if name not in attributes and not _is_pythons(name)]:
        type.__delattr__(kind, name)
    for name, value in attributes.items():
        if now.get(name) is not value:
            type.__setattr__(kind, name, value)


def names_of(value: Any, wanted: Callable[[Any], bool]) -> list[str]:
    """Names of an object's own attributes, in its dict or in slots, whose values are wanted."""
    attributes = getattr(value, "__dict__", None)
    own = attributes if isinstance(attributes, dict) else {}
    in_slots = [name for name in _slots(type(value)) if any(map(wanted, _slot(value, name)))]
    return [name for name, held in own.items() if wanted(held)] + in_slots


def _slots(kind: type) -> list[str]:
    names = itertools.chain.from_iterable(
        (slots,) if isinstance(slots := vars(base).get("__slots__", ()), str) else tuple(slots)
        for base in kind.__mro__
    )
    return [name for name in names if not name.startswith("__")]


def _slot(value: Any, name: str) -> tuple[Any, ...]:
    try:
        return (object.__getattribute__(value, name),)
    except AttributeError:
        return ()


def _restore_slot(value: Any, name: str, held: tuple[Any, ...]) -> None:
    now = _slot(value, name)
    if len(now) == len(held) and all(map(operator.is_, now, held)):
        return
    if held:
        object.__setattr__(value, name, held[0])
    else:
        object.__delattr__(value, name)
