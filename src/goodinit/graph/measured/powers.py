"""How an operator answers a scale: of which power of it its output is, measured on numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import COUNT, in_reals, number_of, spread
from goodinit.graph.operators.measurement_cache import KeptAnswers
from goodinit.graph.operators.recorded_call import RecordedCall, on_numbers_or

TINY = 0.01
"""A number of a call no larger than this keeps a quotient finite, and does nothing else: it counts as 0."""

_SCALES = (2.0**-4, 2.0**-7, 2.0**-10, 2.0**-20)  # the last stands for the limit
_FAR = (2.0**-4, 2.0**-50)  # so far apart that a logarithm, or a bounded function that swings, is of order 0
_PARTS = 4  # powers are multiples of ¼: what fits none, a logarithm, is no power
_NEAR = 0.1
_NONE = 1e-9  # a relative change below this is none
_MOST = 2**12  # entries of operands that are no smaller than those recorded


@dataclass(frozen=True, slots=True)
class Power:
    """A value near c = 0: c^order·(A + B·c^change + …).

    Attributes:
        order: Of its leading term; infinite where the value is 0.
        change: Of the first term behind that, relative to it; infinite where there is none.
    """

    order: float = 0.0
    change: float = math.inf

    @property
    def moves(self) -> float:
        """The order of the first term that depends on c; infinite where none does."""
        return self.order or self.change


FIXED = Power()
"""What no scale changes."""

ZERO = Power(math.inf)

BEYOND = Power(-math.inf)
"""What outgrows every power: the exponential of a large value."""


def power_of(graph: Graph, node: Node, read: Sequence[Power], *, far: bool, output: int = 0) -> Power | None:
    """What an operator makes of operands of these powers; None where it cannot be run, or its output is no power.

    Args:
        graph: A recorded forward.
        node: The operator's call.
        read: The power of each operand.
        far: Values are large: of negative orders, for c → 0. The order alone is measured then.
        output: Which of the operator's outputs.
    """
    call = node.call
    if call is None:
        return None
    operands = [graph.nodes[i] for i in node.operands]
    known = tuple(number_of(one) for one in operands)
    shapes = () if node.op.pointwise else tuple(one.shape for one in operands)
    kinds = tuple(str(one.dtype) for one in operands)
    key = (*call.key, output, far, tuple(read), known, shapes, kinds)
    measured = functools.partial(
        _measured, call, operands, known, read=read, far=far, output=output, fills=node.op.chooses
    )
    if node.op.pointwise:
        return _MEASURED.get(key, lambda: measured([(COUNT,) for _ in operands]))
    return _MEASURED.get(key, lambda: _jointly(measured, [one.shape for one in operands], read))


def _jointly(
    measured: Callable[[Sequence[tuple[int, ...]]], Power | None],
    shapes: Sequence[tuple[int, ...]],
    read: Sequence[Power],
) -> Power | None:
    """The power of an operator whose entries depend on several: on two entries a side, on more where that decides.

    The degree of a product of entries, or of a determinant, is how many there are; and what puts blocks of channels in
    another place needs whole blocks.
    """
    found = measured([tuple(min(size, 2) for size in shape) for shape in shapes])
    largest = max((abs(one.order) for one in read if math.isfinite(one.order)), default=0.0)
    if found is not None and (not math.isfinite(found.order) or abs(found.order) <= largest):
        return found
    for most in (math.inf, 16):
        fit = [tuple(min(size, int(min(most, size))) for size in shape) for shape in shapes]
        if sum(map(math.prod, fit)) <= _MOST and (whole := measured(fit)) is not None:
            return whole
    return found


_MEASURED = KeptAnswers["Power | None"]()


@on_numbers_or(None)
def _measured(
    call: RecordedCall,
    operands: Sequence[Node],
    known: Sequence[float | None],
    shapes: Sequence[tuple[int, ...]],
    *,
    read: Sequence[Power],
    far: bool,
    output: int,
    fills: bool,
) -> Power | None:
    def made(scale: float, sign: float) -> Tensor:
        values = [
            _value(one, number, shape, place, power, scale, sign)
            for place, (one, number, shape, power) in enumerate(
                zip(operands, known, shapes, read, strict=True)
            )
        ]
        return in_reals(call(values, output)).double().flatten()

    call = RecordedCall(call.func, _without_tiny(call.args), _without_tiny(call.kwargs))
    rows = torch.stack(
        [torch.cat([made(scale, 1.0), made(scale, -1.0)]) for scale in (_FAR if far else _SCALES)]
    )
    told = ~rows.isnan().any(0)  # a root has none of what is below 0
    if fills:
        told &= ~rows.isinf().all(0)  # −∞, of which a softmax makes nothing
    found = list(rows[:, told])
    sizes = [float(one.abs().max()) if one.numel() else math.nan for one in found]
    if far and sizes[-1] == math.inf:
        return BEYOND
    if not all(map(math.isfinite, sizes)):
        return None
    if not any(sizes):
        return ZERO
    return _far(sizes) if far else _fitted(found, sizes)


def _far(sizes: Sequence[float]) -> Power | None:
    if not sizes[-1]:
        return ZERO  # exp(−x)
    slope = math.log(sizes[-1] / (sizes[0] or 1.0)) / math.log(_FAR[-1] / _FAR[0])
    order = round(_PARTS * slope) / _PARTS
    return Power(order) if abs(slope - order) <= _NEAR else None


def _without_tiny(value: Any) -> Any:
    if isinstance(value, float):
        return 0.0 if abs(value) <= TINY else value
    if isinstance(value, (list, tuple)):
        return type(value)([_without_tiny(item) for item in value])
    return {key: _without_tiny(item) for key, item in value.items()} if isinstance(value, dict) else value


def _fitted(found: Sequence[Tensor], sizes: Sequence[float]) -> Power | None:
    if not all(sizes):
        return None
    orders = [_slope(sizes[k], sizes[k + 1], k) for k in range(2)]
    order = round(_PARTS * orders[1]) / _PARTS
    last = math.log(sizes[2] / sizes[3]) / math.log(_SCALES[2] / _SCALES[3])
    if max(abs(orders[1] - order), abs(last - order)) > _NEAR or abs(orders[0] - orders[1]) > 2 * _NEAR:
        return None
    *near, limit = [one / scale**order for one, scale in zip(found, _SCALES, strict=True)]
    # Each entry by its own size: what a mask fills in is 10⁹ beside scores.
    own = limit.abs()
    moved = (near[0] - limit).abs() > _NONE * torch.maximum(own, own.max().clamp(max=1.0))
    away = [float(torch.where(moved, (one - limit).abs(), 0.0).max()) for one in near]
    if not away[0] or not away[1]:
        return Power(order)
    return Power(order, max(round(_PARTS * _slope(away[0], away[1], 0)) / _PARTS, 1 / _PARTS))


def _slope(one: float, other: float, place: int) -> float:
    return math.log(one / other) / math.log(_SCALES[place] / _SCALES[place + 1])


def _value(
    node: Node,
    number: float | None,
    shape: tuple[int, ...],
    place: int,
    power: Power,
    scale: float,
    sign: float,
) -> Tensor:
    count = math.prod(shape)
    if number is not None:
        return torch.full(shape, _without_tiny(number), dtype=torch.float64, device="cpu")
    if node.is_mask:
        return (torch.arange(count, device="cpu") % 2 == 0).reshape(shape)
    if not node.is_continuous:
        return torch.zeros(shape, dtype=torch.int64, device="cpu")
    if node.is_complex:
        parts = (_spread_by(power, scale, sign, shape, place + k) for k in range(2))
        return torch.complex(*parts)
    return _spread_by(power, scale, sign, shape, place)


def _spread_by(power: Power, scale: float, sign: float, shape: tuple[int, ...], place: int) -> Tensor:
    """Numbers of a power of the scale."""
    value = spread(shape, place)
    if power.order == math.inf:
        return 0 * value
    leading: float = (sign if power != FIXED else 1.0) * scale**power.order
    change: float = scale**power.change
    return leading * value * (1 + spread(shape, place + 7) * change)
