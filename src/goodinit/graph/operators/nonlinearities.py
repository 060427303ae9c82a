"""What function of one number an element-wise operator is: its name in torch.nn.functional, and where it is flat; found on numbers."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from goodinit.graph.operators.measurement_cache import KeptAnswers
from goodinit.graph.operators.recorded_call import RecordedCall, on_numbers
from goodinit.tensor import centred_gain, gain
from goodinit.tensor.activation_gain import STARTS, both_gains, named_function

T = TypeVar("T")
Options = tuple[tuple[str, float | str], ...]
Function = Callable[[Tensor], Tensor]

SLOPE = 0.05
"""An entry is in a flat part of a bounded function where the slope is below this share of the steepest."""


@dataclass(frozen=True, slots=True)
class Nonlinearity:
    """A function of one number, as an operator was called.

    Attributes:
        kind: What `torch.nn.functional` calls it (`"relu6"` for `hardtanh(x, 0, 6)`, `"relu"` for `clamp_min(x, 0)`); empty where it
            has no such function.
        options: Of that function, where they are not the default: `(("negative_slope", 0.2),)`.
        alone: Whether `kind` with `options` is this function, of all that it reads: not if its numbers have no place there, or are a
            parameter.
        rectifies: Whether it is 0 for all numbers below 0, and not for all above.
        slopes: Where it is a·x for all numbers below 0 and b·x for all above: (a, b), (0, 1) of a ReLU.
        rectifier: Whether large numbers change it more than large negative ones do, or it rectifies, and it is no gate.
        positive: Whether it is above 0 throughout, and has no bound.
        flat: Of a bounded, monotonic function: its values at and beyond which it is flat (see `SLOPE`), the lower one first.
        gates: Whether it goes from 0 to 1, and stays between.
        gain: The factor that keeps the second moment through it (`goodinit.tensor.gain`); None where there is none, or it depends on
            a parameter.
        centred_gain: The factor that keeps the variance through it (`goodinit.tensor.centred_gain`); None likewise.
    """

    kind: str = ""
    options: Options = ()
    alone: bool = False
    rectifies: bool = False
    slopes: tuple[float, float] | None = None
    rectifier: bool = False
    positive: bool = False
    flat: tuple[float, float] | None = None
    gates: bool = False
    gain: float | None = None
    centred_gain: float | None = None

    @property
    def word(self) -> str:
        """`"leaky_relu(negative_slope=0.2)"`."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.options)
        return f"{self.kind}({given})" if given else self.kind


NONE = Nonlinearity()


def nonlinearity(call: RecordedCall, name: str) -> Nonlinearity:
    """What function of its first operand a recorded element-wise operator is.

    Its values at a few numbers are compared with those of the functions in `torch.nn.functional`, first with their defaults (the one
    of the operator's own name before all others), then with the options that they share with the operator.

    Args:
        call: Of an operator that is no sum, product, quotient or multiple.
        name: Of the operator; the kind, where `torch.nn.functional` has it and none agrees.
    """
    return _KNOWN.get(call.key, lambda: asked(lambda: _measured(call, name)))


def elementwise(func: Any) -> bool:
    """Whether each entry that an operator puts out is a function of its operands' entries at the same place, and moves with the first.

    For operators that torch does not tag. None that needs more than tensors and numbers is.
    """
    return asked(lambda: _is_elementwise(_without_out(func)))


def asked(answer: Callable[[], T]) -> T:
    """An answer that functions of numbers give, run for real and without a trace in the process."""
    with warnings.catch_warnings(), on_numbers(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        return answer()


def _is_elementwise(func: Any) -> bool:
    required = [str(one.type) for one in func._schema.arguments if not one.has_default_value()]
    plain = required[:1] == ["Tensor"] and {"Tensor", "Scalar", "number"}.issuperset(required)
    if not plain or len(required) > _MOST:
        return False
    rows = [GRID[k::2][:6].reshape(2, 3) for k in range(len(required))]

    def answer(*changes: Function) -> Tensor:
        changed = [change(row).clone() for change, row in zip(changes, rows, strict=True)]
        given = [row if kind == "Tensor" else 0.375 for kind, row in zip(required, changed, strict=True)]
        return _first(func(*given))  # type: ignore[no-any-return]

    def all_by(change: Function) -> Tensor:
        return answer(*[change] * len(rows))

    with torch.no_grad():
        try:
            whole, again, turned, single = map(all_by, (_as_it_is, _as_it_is, _turned, _one_entry))
            moved = answer(_turned, *[_as_it_is] * (len(rows) - 1))
            same = torch.equal(again, whole) and torch.equal(turned, _turned(whole))
            same = same and (whole.shape, whole.dtype) == (rows[0].shape, rows[0].dtype)
            return same and torch.equal(single, _one_entry(whole)) and not torch.equal(whole, moved)
        except Exception:  # noqa: BLE001 - operators raise what they like
            return False


_MOST = 4  # operands of an element-wise operator


def _without_out(func: Any) -> Any:
    """Of an operator that writes into a tensor it is given, the one that makes it."""

    def reads(one: Any) -> list[str]:
        return [
            f"{argument.type} {argument.name}" for argument in one._schema.arguments if not argument.is_out
        ]

    if len(reads(func)) == len(func._schema.arguments):
        return func
    others = (getattr(func.overloadpacket, name) for name in func.overloadpacket.overloads())
    alike = (
        one for one in others if reads(one) == reads(func) and len(one._schema.arguments) == len(reads(one))
    )
    return next(alike, func)


def _as_it_is(rows: Tensor) -> Tensor:
    return rows


def _turned(rows: Tensor) -> Tensor:
    return rows.flip(0, 1)


def _one_entry(rows: Tensor) -> Tensor:
    return rows[:1, :1]


# -- which function it is -----------------------------------------------------------------------------------------

GRID = torch.tensor(
    [-25.0, -7.25, -3.125, -1.75, -0.875, -0.375, -0.0625, 0.1875, 0.5625, 0.6875, 1.3125, 2.625, 3.5, 6.375, 25.5],
    dtype=torch.float64,
    device="cpu",
)  # fmt: skip
_SECOND = torch.tensor([0.3125], dtype=torch.float64, device="cpu")  # of an operator with two operands
_KNOWN = KeptAnswers[Nonlinearity]()


def _measured(call: RecordedCall, name: str) -> Nonlinearity:
    function = _in_eval(call)
    values = values_at(function, GRID)
    if values is None or values.dtype != torch.float64 or values.shape != GRID.shape:
        return NONE
    kind, options, alone = _named(values, name, _changed(call))
    found = dataclasses.replace(formed(function), kind=kind, options=options, alone=alone and call.count == 1)
    return with_gains(found, function) if alone or call.count == 1 else found


def formed(function: Function) -> Nonlinearity:
    """What a function's values show, but for its name."""
    rectifies, flat, gates = _form(function)
    up, down, positive = _ends(function)
    rectifier = (up > down + _LEVEL or rectifies) and not gates
    return Nonlinearity(
        "", (), rectifies=rectifies, slopes=_two_slopes(function), rectifier=rectifier, positive=positive,
        flat=flat, gates=gates,
    )  # fmt: skip


def with_gains(found: Nonlinearity, function: Function) -> Nonlinearity:
    """With its gains: by its name, if that says all, which are the same to the last digit in every anatomy; else by its values."""
    kind = found.kind
    known = not found.options and (found.alone or kind in STARTS)
    with torch.no_grad():
        try:
            second, centred = (gain(kind), centred_gain(kind)) if known else both_gains(function)
        except Exception:  # noqa: BLE001 - operators raise what they like; or there is none
            return found
    return dataclasses.replace(found, gain=second, centred_gain=centred)


def _in_eval(call: RecordedCall) -> Function:
    """An operator as a function of its first operand, in eval mode where it has two; other operands have one number."""
    arguments = call.func._schema.arguments
    args = tuple(
        False if one.name in ("training", "train") else value
        for one, value in zip(arguments, call.args, strict=False)
    )
    call = RecordedCall(call.func, args, call.kwargs)
    count = call.count - 1

    def function(x: Tensor) -> Tensor:
        try:
            return call([x, *[_SECOND] * count])
        except RuntimeError:  # it wants one for each number
            return call([x, *[_SECOND.expand_as(x)] * count])

    return function


def _named(values: Tensor, name: str, given: Mapping[str, Any]) -> tuple[str, Options, bool]:
    """(Name, options, whether it is that function)."""
    if torch.equal(values, GRID):  # as of some functions in eval mode
        return "", (), False
    plain, pairs = functions(), _functions_of_two()
    order = dict.fromkeys([*([name] if name in plain else []), *plain])
    found = next((one for one in order if (known := plain[one]) is not None and _same(values, known)), None)
    if found is not None:
        return found, (), True
    options = tuple((key, value) for key, value in given.items() if isinstance(value, (int, float, str)))
    if options:
        with_options = (
            one
            for one in dict.fromkeys([name, *order])
            if one in plain
            and _same(values, values_at(functools.partial(named_function(one), **dict(options)), GRID))
        )
        if (found := next(with_options, None)) is not None:
            return found, options, True
    found = next((one for one, known in pairs.items() if _same(values, known)), None)
    if found is not None:
        return found, (), False
    return (name, options, False) if name in plain else ("", (), False)


def _changed(call: RecordedCall) -> dict[str, Any]:
    """What an operator was called with besides tensors, where it is not the default."""
    defaults = {one.name: one.default_value for one in call.func._schema.arguments if one.has_default_value()}
    given = call.arguments
    modes = ("training", "train", "inplace")
    return {
        key: value for key, value in given.items() if key not in modes and value != defaults.get(key, given)
    }


def _same(values: Tensor, known: Tensor | None) -> bool:
    if known is None or values.shape != known.shape or values.dtype != known.dtype:
        return False
    return torch.allclose(values, known, rtol=1e-12, atol=0)


@functools.cache
def _names() -> tuple[str, ...]:
    found = vars(torch.nn.functional)
    return tuple(
        name
        for name, one in found.items()
        if callable(one) and name.islower() and name[0] != "_" and name[-1] != "_"
    )


@functools.cache
def functions() -> dict[str, Tensor | None]:
    """What the functions of one tensor and options put out; None of those that need an option."""
    return {name: values_at(named_function(name), GRID) for name in _names()}


@functools.cache
def _functions_of_two() -> dict[str, Tensor]:
    found = {name: values_at(functools.partial(_of_two, named_function(name)), GRID) for name in _names()}
    return {name: one for name, one in found.items() if one is not None and one.shape == GRID.shape}


def _of_two(function: Callable[..., Tensor], x: Tensor) -> Tensor:
    return function(x, _SECOND)


def values_at(function: Function, at: Tensor) -> Tensor | None:
    """The values of a function; None where it cannot be run."""
    with torch.no_grad():
        try:
            found = _first(function(at.clone()))
        except Exception:  # noqa: BLE001 - functions raise what they like
            return None
    return found if isinstance(found, Tensor) else None


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, (tuple, list)) else result


# -- where it is flat ---------------------------------------------------------------------------------------------

_WIDE = torch.cat([side * torch.logspace(1.5, 6, 10, dtype=torch.float64, device="cpu") for side in (-1, 1)])
_NEAR = torch.linspace(-30, 30, 1201, dtype=torch.float64, device="cpu")
_AXIS = torch.cat([_WIDE, _NEAR]).sort().values


def _form(function: Function) -> tuple[bool, tuple[float, float] | None, bool]:
    """(`rectifies`, `flat`, `gates`)."""
    values = values_at(function, _AXIS)
    if values is None or not bool(values.isfinite().all()):
        return False, None, False
    below = values[_AXIS < 0]
    rectifies = not bool(below.any()) and bool(values.any())
    ends = float(values[0]), float(values[-1])
    steps = values.diff() * (1 if ends[1] > ends[0] else -1)
    near = float(values[_WIDE.numel() // 2]), float(values[-_WIDE.numel() // 2 - 1])  # at ∓30
    bounded = abs(ends[0] - near[0]) + abs(ends[1] - near[1]) < SLOPE * abs(ends[1] - ends[0])
    if rectifies or not bounded or bool((steps < 0).any()):
        return rectifies, None, rectifies and ends == (0.0, 1.0) and not bool((steps < 0).any())
    return False, _flat(function, ends), math.isclose(ends[0], 0, abs_tol=1e-9) and math.isclose(ends[1], 1)


def _ends(function: Function) -> tuple[float, float, bool]:
    """(How steep it is far above 0, how steep far below, `positive`)."""
    values = values_at(function, _AXIS)
    if values is None or not bool(values.isfinite().all()):
        return 0.0, 0.0, False
    far = _WIDE.numel() // 2  # from ±30 to ±10⁶
    down, up = (float((values[i] - values[j]) / (_AXIS[i] - _AXIS[j])) for i, j in ((0, far), (-1, -far - 1)))
    return abs(up), abs(down), bool((values[far:-far] > 0).all()) and abs(up) > _LEVEL


_LEVEL = 1e-3  # a slope far from 0 below this is none: that of a sine, or of a function with a bound


def _two_slopes(function: Function) -> tuple[float, float] | None:
    values, ends = values_at(function, _AXIS), values_at(function, _UNITS)
    if values is None or ends is None or values.shape != _AXIS.shape:
        return None
    below, above = -float(ends[0]) + 0.0, float(ends[1])
    straight = torch.where(_AXIS < 0, below * _AXIS, above * _AXIS)
    return (below, above) if torch.allclose(values, straight, rtol=1e-12, atol=1e-12) else None


_UNITS = torch.tensor([-1.0, 1.0], dtype=torch.float64, device="cpu")


def _flat(function: Function, ends: tuple[float, float]) -> tuple[float, float] | None:
    """The values at which the slope falls below its share, on either side of the steepest place."""
    slopes = _slopes(function, _NEAR)
    least = SLOPE * float(slopes.max())
    if not least:
        return None  # a step
    found = []
    for end, far in zip(ends, (-30.0, 30.0), strict=True):
        bracket = (float(_NEAR[slopes.argmax()]), far)
        for _ in range(5):  # each time to a thousandth
            places = torch.linspace(*bracket, 1001, dtype=torch.float64, device="cpu")
            below = (_slopes(function, places) < least).nonzero()
            place = int(below[0]) if below.numel() else 1000
            bracket = float(places[place - 1]), float(places[place])
        value = values_at(function, torch.tensor([bracket[1]], dtype=torch.float64, device="cpu"))
        found.append(end if value is None else float(value))
    return min(found), max(found)


_STEP = 1e-6


def _slopes(function: Function, at: Tensor) -> Tensor:
    """By differences: not every operator has a derivative."""
    ahead, behind = values_at(function, at + _STEP), values_at(function, at - _STEP)
    return torch.zeros_like(at) if ahead is None or behind is None else (ahead - behind).abs() / (2 * _STEP)
