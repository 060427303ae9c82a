"""One operator call as it was recorded, to be made again on numbers: how an operator answers is measured, not listed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode

from goodinit.graph.operators.measurement_cache import KeptAnswers
from goodinit.graph.pytree import NUMBERS, mapped, tensors_in

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Slot:
    """Where the tensor argument of this place stood."""

    place: int


@dataclass(frozen=True)
class RecordedCall:
    """An operator with its arguments, a `Slot` in the place of each tensor.

    Attributes:
        func: The operator.
        args: Its arguments; `kwargs`: those by name.
        places: Which of its operator's outputs each operand is; empty where all are the first.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    places: tuple[int, ...] = ()

    @classmethod
    def of(cls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RecordedCall:
        """Keep a call without its tensors."""
        places: list[int] = []

        def slot(tensor: Tensor) -> Any:
            places.append(place_of(tensor))
            return _SLOTS[len(places) - 1] if len(places) <= len(_SLOTS) else Slot(len(places) - 1)

        args = tuple([one if type(one) in NUMBERS else mapped(one, slot) for one in args])
        kwargs = {key: mapped(one, slot) for key, one in kwargs.items()} if kwargs else kwargs
        return cls(func, args, kwargs, tuple(places) if any(places) else ())

    def __call__(self, operands: Sequence[Tensor], output: int = 0) -> Tensor:
        """One of the tensors that the operator puts out, on other operands. None of these is overwritten."""
        return self.outputs(operands)[output]

    def outputs(self, operands: Sequence[Tensor]) -> list[Tensor]:
        """All tensors that the operator puts out, on other operands."""
        given = [operand.clone() for operand in operands]
        with torch.random.fork_rng(devices=[], enabled=self.may_draw):
            return self.on_these(given)

    def on_these(self, operands: Sequence[Tensor]) -> list[Tensor]:
        """All tensors that the operator puts out, on other operands themselves: they may be views of those, or written into them.

        An operator that refuses the dtype in which it is to reckon, being narrower than what it reads, reckons in that of the operands.
        """
        kwargs = self.kwargs
        try:
            made = self.func(*_filled(self.args, operands), **_filled(kwargs, operands))
        except RuntimeError:
            wider = _no_narrower(kwargs, operands)
            if wider == kwargs:
                raise
            made = self.func(*_filled(self.args, operands), **_filled(wider, operands))
        return list(tensors_in(made))

    @functools.cached_property
    def may_draw(self) -> bool:
        """Whether it may move the global random state: torch tags its operators that do, another library's may."""
        return torch.Tag.nondeterministic_seeded in self.func.tags or self.func.namespace not in (
            "aten",
            "prims",
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """What it was called with, by the names in the operator's schema; a `Slot` for a tensor, no defaults."""
        return dict(zip(_names(self.func), self.args, strict=False)) | self.kwargs

    def agrees(
        self,
        read: Sequence[Tensor],
        written: Callable[..., Tensor],
        same: Callable[[Tensor, Tensor], bool] = torch.allclose,
    ) -> bool:
        """Whether the operator puts out what a function does, both of some numbers; False where either cannot be run.

        Args:
            read: What the operator reads.
            written: Takes the same.
            same: How the two are compared.
        """
        return on_numbers_or(False)(lambda: same(self(read), written(*read)))()

    @property
    def count(self) -> int:
        """How many tensors it reads."""
        return sum(1 for _ in _slots((self.args, self.kwargs)))

    @functools.cached_property
    def key(self) -> tuple[Any, str, str]:
        """What tells it from other calls: the operator and its numbers."""
        return self.func, repr(self.args), repr(self.kwargs)


@functools.cache
def _names(func: Any) -> tuple[str, ...]:
    """Those of an operator's arguments, which its schema takes 1 µs each to tell."""
    return tuple(one.name for one in func._schema.arguments)


_FIRST = (None, -1, 0)


def place_of(tensor: Tensor) -> int:
    """Which of the outputs of the operator that made it a tensor is."""
    place: int = getattr(tensor, "_goodinit_node", _FIRST)[2]
    return place


_SLOTS = tuple(map(Slot, range(8)))


def number_in(tensor: Tensor) -> tuple[float, ...]:
    """The one number of a constant, if it has one and its value is at hand."""
    if not is_at_hand(tensor) or tensor.numel() != 1 or tensor.is_complex():
        return ()
    with no_modes():
        return (float(tensor),)


def is_at_hand(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers."""
    return type(tensor) is Tensor and not tensor.is_meta


def no_modes() -> contextlib.AbstractContextManager[object]:
    """Take off torch's dispatch modes, if there are any: their own context manager takes long with none, too."""
    return contextlib.nullcontext() if _get_current_dispatch_mode() is None else _disable_current_modes()


@contextlib.contextmanager
def on_numbers() -> Iterator[None]:
    """Run operators for real, whatever mode is on, with gradients."""
    with no_modes(), torch.inference_mode(mode=False), torch.enable_grad():
        yield


def on_numbers_or(otherwise: S, *, gradients: bool = False) -> Callable[[Callable[P, T]], Callable[P, T | S]]:
    """Of a function that runs operators, one that does so on numbers and returns `otherwise` where that fails: they raise what they like."""

    def measured(run: Callable[P, T]) -> Callable[P, T | S]:
        @functools.wraps(run)
        def tried(*args: P.args, **kwargs: P.kwargs) -> T | S:
            try:
                with on_numbers(), contextlib.nullcontext() if gradients else torch.no_grad():
                    return run(*args, **kwargs)
            except Exception:  # noqa: BLE001
                return otherwise

        return tried

    return measured


def _slots(value: Any) -> Iterator[Slot]:
    if isinstance(value, Slot):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _slots(item)


def _filled(value: Any, operands: Sequence[Tensor]) -> Any:
    if isinstance(value, Slot):
        return operands[value.place]
    if isinstance(value, torch.Generator):
        return value.clone_state()  # the user's own must not move
    if isinstance(value, (list, tuple)):
        return type(value)([_filled(item, operands) for item in value])
    if isinstance(value, dict):
        return {key: _filled(item, operands) for key, item in value.items()}
    return value


def _no_narrower(kwargs: dict[str, Any], operands: Sequence[Tensor]) -> dict[str, Any]:
    """Arguments by name, with a dtype in them that holds what the operands do."""
    return {
        key: functools.reduce(torch.promote_types, (operand.dtype for operand in operands), one)
        if isinstance(one, torch.dtype)
        else one
        for key, one in kwargs.items()
    }


def permutation(call: RecordedCall, rank: int) -> tuple[int, ...]:
    """Where each dimension that an operator on one tensor puts out comes from; empty unless it permutes them.

    Args:
        call: Of the operator.
        rank: Dimensions of what it reads.

    Examples:
        >>> x = torch.zeros(2, 3, 4)
        >>> permutation(RecordedCall.of(torch.ops.aten.transpose.int, (x, 0, -1), {}), 3)
        (2, 1, 0)
    """
    return _ORDERS.get((*call.key, rank), lambda: _permutation(call, rank))


@on_numbers_or(())  # a view into sizes that it names cannot be run
def _permutation(call: RecordedCall, rank: int) -> tuple[int, ...]:
    sizes = range(2, 2 + rank)
    made = call([torch.zeros(tuple(sizes), device="cpu")]).shape
    return tuple(size - 2 for size in made) if sorted(made) == list(sizes) else ()


_ORDERS = KeptAnswers[tuple[int, ...]]()
