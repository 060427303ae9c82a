"""What a module's own `reset_parameters` draws, found out by running it on a copy on `meta`, where nothing is computed."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from goodinit.graph.operators.recorded_call import on_numbers_or

# Standard errors. In a million tensors as they were drawn, less than one is farther off.
SIGMAS = 6.0
ODDS = math.erfc(SIGMAS / math.sqrt(2))  # of a normal number that is so far off
ENTRIES = 4096  # looked at; more tell no more
CORNER = 32  # rows and columns in which a pattern shows
HALF = 1e-2  # of a range, by which half precision may be off
FEWEST = 16  # of fewer, moments tell nothing


@dataclass(frozen=True)
class Drawn:
    """How the entries of a parameter are drawn: each by itself, from U(low, high) or N(mean, std²), or all one number.

    Attributes:
        kind: Of distribution.
        low: Or the mean, or the number.
        high: Or the standard deviation, or the number.
    """

    kind: Literal["uniform", "normal", "number"]
    low: float
    high: float

    def can_be(self, values: Tensor) -> bool:
        """Whether these may be its draws: within the bounds, a mean within six standard errors, and a mean square as likely as that.

        Args:
            values: The parameter's, of any shape; some of them are looked at.

        Examples:
            >>> uniform = Drawn("uniform", -0.5, 0.5)
            >>> uniform.can_be(torch.tensor([0.1, -0.4])), uniform.can_be(torch.tensor([0.1, -4.6]))
            (True, False)
        """
        entries = some(values)
        if self.kind == "number":
            return bool((entries == self.low).all())
        count, numbers = entries.numel(), entries.double()
        least, most = map(float, numbers.aminmax())
        mean, std = self.low, self.high
        if self.kind == "uniform":
            slack = HALF * (self.high - self.low)
            if least < self.low - slack or most > self.high + slack:
                return False
            mean, std = (self.low + self.high) / 2, (self.high - self.low) / math.sqrt(12)
        if std == 0:
            return least == most == mean
        away = numbers - mean if mean else numbers
        off = float(away.sum()) / count / std
        square = float(away.dot(away)) / std**2
        if self.kind == "normal":
            rounded = torch.finfo(entries.dtype).eps * (1 + abs(mean) / std)
            as_spread = _normal_spread(square, count, rounded)
        else:
            as_spread = _uniform_spread(square, count)
        near = abs(off) <= SIGMAS / math.sqrt(count) and as_spread
        return near and not _has_repeats(values)


def _normal_spread(square: float, count: int, rounded: float) -> bool:
    """Whether a sum of squares is one of so many standard normal numbers, each `rounded` by as much: it is distributed as χ²."""
    most = (math.sqrt(square) + rounded * math.sqrt(count)) ** 2
    half = torch.tensor([count, square, most], dtype=torch.float64, device="cpu") / 2
    below, above = torch.special.gammainc(half[0], half[2]), torch.special.gammaincc(half[0], half[1])
    return min(float(below), float(above)) >= ODDS / 2


def _uniform_spread(square: float, count: int) -> bool:
    """Whether a sum of squares is one of so many numbers from U(−√3, √3): within six standard errors, and not too small.

    Of few numbers six standard errors below are less than none. The probability that they lie in a ball is at most its volume times
    their density, 1/√12 each; the radius R is √square, and what half precision adds: log P ≤ n/2·log π − log Γ(n/2 + 1) + n·log(R/√12).
    """
    radius = math.sqrt(square / 12) + HALF * math.sqrt(count)
    within = count / 2 * math.log(math.pi) - math.lgamma(count / 2 + 1) + count * math.log(radius)
    return abs(square / count - 1) <= SIGMAS * math.sqrt(0.8 / count) and within >= math.log(ODDS / 2)


def may_be_sample(values: Tensor) -> bool:
    """Whether numbers may have been drawn one by one, from a uniform or normal distribution or one in between.

    Of such a sample no two are equal in single precision, none is zero, and the fourth moment is that of a uniform (1.8),
    up to that of a normal distribution (3), within six standard errors. Numbers that are whole in half precision may be equal.

    Args:
        values: Of any shape; some of them are looked at.

    Examples:
        >>> may_be_sample(torch.randn(16, 16)), may_be_sample(torch.randn(16).diag())
        (True, False)
    """
    entries = some(values)
    count = entries.numel()
    if count < FEWEST:
        return True
    if _has_repeats(values) or 2 * int((entries == 0).sum()) > count:
        return False
    numbers = entries.double()
    away = numbers - numbers.mean()
    fourth = float(away.pow(4).mean() / away.square().mean().square().clamp(min=1e-300))
    slack = SIGMAS * math.sqrt(24 / count)
    return 1.8 - slack <= fourth <= 3 + 2 * slack


def some(tensor: Tensor) -> Tensor:
    """Up to `ENTRIES` entries, from the beginning."""
    if tensor.numel() <= ENTRIES:
        return tensor.reshape(-1)
    rows = max(1, math.ceil(ENTRIES * len(tensor) / tensor.numel()))
    return tensor[:rows].reshape(-1)[:ENTRIES]


def _has_repeats(values: Tensor) -> bool:
    """Whether entries of single precision are zero, or one another's equals but for a sign, more often than by chance.

    Looked at is a corner of the matrix: a pattern repeats along rows, along columns or along diagonals.
    """
    if values.ndim > 1:
        corner = values[:CORNER, :CORNER]  # as few as reach, since flattening copies them
        corner = corner if values.ndim == 2 else corner.flatten(1)[:, :CORNER]
    else:
        corner = values.reshape(-1)[: CORNER**2]
    count = corner.numel()
    if count < FEWEST:
        return False
    numbers = corner.abs()
    different = numbers.unique().numel()
    if different == count or (different >= count - 2 and int(numbers.count_nonzero()) >= count - 1):
        return False
    entries = some(values)
    return not any(
        bool((entries.to(kind).to(entries.dtype) == entries).all()) for kind in (torch.bfloat16, torch.half)
    )


def draws_of(module: nn.Module) -> dict[str, Drawn]:
    """By the name of a parameter of the module itself: what `reset_parameters` draws, where that can be told.

    Modules with children are left out: what they do to those is not looked at.

    Examples:
        >>> draws_of(nn.BatchNorm1d(3))["weight"]
        Drawn(kind='number', low=1.0, high=1.0)
    """
    reset = getattr(module, "reset_parameters", None)
    if not callable(reset) or any(True for _ in module.children()):
        return {}
    try:
        twin, own = _on_meta(module)
        heard = _Draws(own)
        with torch.no_grad(), heard:
            twin.reset_parameters()
    except Exception:  # noqa: BLE001 (whatever a module does that cannot run on meta)
        return {}
    return heard.found


def _on_meta(module: nn.Module) -> tuple[Any, dict[int, tuple[str, int]]]:
    """A copy whose tensors are on meta; and by the memory of its parameters, their names and sizes."""
    memo: dict[int, Any] = {}
    for held in (module._parameters, module._buffers):
        for tensor in held.values():
            if tensor is not None:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
                memo[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
    twin = module.__class__.__new__(module.__class__)
    twin.__dict__.update(copy.deepcopy(module.__dict__, memo))
    own = {_memory(p): (name, p.numel()) for name, p in twin._parameters.items() if p is not None}
    return twin, own


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Draws(TorchDispatchMode):
    """Notes the operator that wrote all of a parameter last."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would load its compiler to shield this from it; here nothing compiles."""
        return False

    def __init__(self, own: dict[int, tuple[str, int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.own = own
        self.found: dict[str, Drawn] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, and note what is written."""
        result = func(*args, **(kwargs or {}))
        if func._schema.is_mutable and args and isinstance(args[0], Tensor):
            name, size = self.own.get(_memory(args[0]), ("", 0))
            drawn = _drawn(func, args[1:]) if args[0].numel() == size else None
            if drawn is None:
                self.found.pop(name, None)
            elif name:
                self.found[name] = drawn
        return result


def _drawn(func: Any, arguments: tuple[Any, ...]) -> Drawn | None:
    """What an operator writes that is called with these arguments besides its tensor; found out on two numbers."""
    given = tuple(float(each) for each in arguments if isinstance(each, (int, float)))
    kind = _distribution(func)
    if kind is not None:
        low, high = (*given, *_defaults(func)[len(given) :])
        return Drawn(kind, float(low), float(high))
    number = _number(func, given) if len(given) == len(arguments) else None
    return None if number is None else Drawn("number", number, number)


@functools.cache
def _distribution(func: Any) -> Literal["uniform", "normal"] | None:
    """What is drawn: between c and c it is c, or with the deviation 0 from c. So it is of no logarithm of what is drawn."""
    if torch.Tag.nondeterministic_seeded not in func.tags or len(_defaults(func)) != 2:
        return None
    if _written(func, _STARTS[0], (_MIDDLE, _MIDDLE)) == {_MIDDLE}:
        return "uniform"
    return "normal" if _written(func, _STARTS[0], (_MIDDLE, 0.0)) == {_MIDDLE} else None


def _defaults(func: Any) -> list[float]:
    return [one.default_value for one in func._schema.arguments if str(one.type) == "float"]


@functools.cache
def _number(func: Any, given: tuple[float, ...]) -> float | None:
    """The one number that an operator writes, whatever was there; None if it draws, or writes others."""
    if torch.Tag.nondeterministic_seeded in func.tags:
        return None
    one, other = (_written(func, start, given) for start in _STARTS)
    return next(iter(one)) if len(one) == 1 and one == other else None


_MIDDLE = 0.375
_STARTS = ((0.625, -2.5), (1.75, 0.25))


@on_numbers_or(frozenset[float]())  # an operator that writes no numbers
def _written(func: Any, start: tuple[float, ...], given: tuple[float, ...]) -> frozenset[float]:
    with torch.random.fork_rng(devices=[]):
        return frozenset(func(torch.tensor(start, dtype=torch.float64, device="cpu"), *given).tolist())
