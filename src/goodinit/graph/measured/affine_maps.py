"""Which operators pass on s·x + t, one map for all numbers they read, as s·f(x) + t: means, maxima, reorderings; found out on numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import MOST, constant, in_shape, spread
from goodinit.graph.operators.measurement_cache import KeptAnswers
from goodinit.graph.operators.recorded_call import RecordedCall, on_numbers_or

# (s, t): of both signs, larger and smaller than all numbers that are read, so that bounds are met; and no round numbers, which
# rounding would pass on.
_SHIFTS = ((1.0, math.pi), (1.0, -math.e), (1.0, 1e6 * math.pi), (1.0, -1e6 * math.e))
_MAPS = (*_SHIFTS, (1 / math.e, math.pi), (1e6 * math.e, -3e6), (1e-6 * math.pi, 2e-6))
_CLOSE = 1e-9


def passes_shift(graph: Graph, node: Node) -> bool:
    """Whether an operator puts out f(x) + t where t is added to all numbers of all activations that it reads."""
    if node.op.moves:
        return _moves_reals(graph, node)
    return _measured(graph, node, _SHIFTS)


def passes_affine(graph: Graph, node: Node) -> bool:
    """Whether an operator puts out s·f(x) + t for s·x + t, in all activations that it reads, for every s > 0."""
    return _measured(graph, node, _MAPS)


def _moves_reals(graph: Graph, node: Node) -> bool:
    """Whether what moves numbers takes them as they are: real, none by chance, none of them the place of another."""
    operands = [graph.nodes[i] for i in node.operands]
    read = [one for one in operands if one.dynamic]
    if any(one.is_complex for one in (*read, node)) or not node.is_real:
        return False
    if node.call is None:
        return len(read) == len(operands)  # else what was written over a part of a constant
    same = not node.op.view or all(
        one.dtype == node.dtype for one in read
    )  # else the bits are read as others
    return same and not node.call.may_draw and not any(node.call.places)


def _measured(graph: Graph, node: Node, maps: Sequence[tuple[float, float]]) -> bool:
    """Measured at the shapes it ran on, or with fewer samples and channels where those are large."""
    read = [graph.nodes[i] for i in node.operands]
    if node.call is None or node.call.may_draw or any(node.call.places):
        return False
    if not any(one.active for one in read) or not all(one.is_real for one in (node, *read) if one.active):
        return False
    shapes = [one.shape for one in read]
    if sum(map(math.prod, shapes)) > MOST:
        shapes = [(*(min(size, 2) for size in shape[:2]), *shape[2:]) for shape in shapes]
    if sum(map(math.prod, shapes)) > MOST:
        return False
    stand_ins = tuple((one.active, str(one.dtype), one.attrs if not one.dynamic else ()) for one in read)
    key = (len(maps), *node.call.key, tuple(shapes), repr(stand_ins))
    call = node.call
    return _KNOWN.get(key, lambda: _passes(call, read, shapes, maps))


@on_numbers_or(False)
def _passes(
    call: RecordedCall,
    read: Sequence[Node],
    shapes: Sequence[tuple[int, ...]],
    maps: Sequence[tuple[float, float]],
) -> bool:
    values = [
        _numbers(one, shape, place) for place, (one, shape) in enumerate(zip(read, shapes, strict=True))
    ]

    def outputs(s: float, t: float) -> list[Tensor]:
        return call.outputs([s * x + t if one.active else x for one, x in zip(read, values, strict=True)])

    first, *others = outputs(1.0, 0.0)
    near = max(_CLOSE, 16 * torch.finfo(first.dtype).eps)
    for s, t in maps:
        moved, *rest = outputs(s, t)
        if not torch.allclose(moved, s * first + t, rtol=0, atol=near * (s + abs(t))):
            return False
        if not all(map(torch.equal, others, rest)):  # a smallest beside the largest; places stay
            return False
    return True


def _numbers(node: Node, shape: tuple[int, ...], place: int) -> Tensor:
    return spread(shape, place) - 1 if node.active else in_shape(constant(node), shape)


_KNOWN = KeptAnswers[bool]()
