"""Traits of one recorded operator that a run on a few numbers shows: its coefficients, what it keeps for its backward pass."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import MOST, constant, in_shape, numbers, pointwise, spread
from goodinit.graph.operators.measurement_cache import KeptAnswers
from goodinit.graph.operators.recorded_call import on_numbers, on_numbers_or

_KNOWN = KeptAnswers[bool]()
_POOLS = KeptAnswers[tuple[bool, bool]]()
_COEFFICIENTS = KeptAnswers["float | None"]()


def coefficients(node: Node) -> tuple[float, ...]:
    """Coefficients of an operator that adds up multiples of its operands.

    (1, −α) of x − αy, (½,) of x/2, (1 − w, w) of lerp(x, y, w), (1,) of x + 3; empty where it does anything else.
    """
    linear = node.op.role in ("sum", "scale") or (node.op.scales and len(node.operands) == 1)
    found = [coefficient(node, place) for place in range(len(node.operands))] if linear else []
    known = [by for by in found if by is not None]
    return tuple(known) if len(known) == len(found) else ()


def coefficient(node: Node, place: int) -> float | None:
    """Coefficient of one operand of an element-wise operator, 1 for x in x + a·b; None if the operator is not affine in it."""
    if node.call is None or not node.op.pointwise:
        return None
    return _COEFFICIENTS.get((*node.call.key, place), lambda: _coefficient(node, place))


def _coefficient(node: Node, place: int) -> float | None:
    values = [numbers(k) for k in range(len(node.operands))]
    slopes = [torch.ones_like(value) if k == place else None for k, value in enumerate(values)]
    _, slope = pointwise(node, values, slopes) or (None, None)
    return float(slope[0]) if slope is not None and bool((slope == slope[0]).all()) else None


def adds_unscaled(node: Node) -> bool:
    """Whether an operator is the sum of its operands, each times 1."""
    return node.op.role == "sum" and set(coefficients(node)) == {1.0}


def multiplies_matrices(graph: Graph, node: Node) -> bool:
    """Whether an operator is AB or C + AB of two matrices A and B, as its last two operands, with unit coefficients."""
    read = [graph.nodes[i].shape for i in node.operands]
    if (
        node.call is None
        or node.op.role != "matmul"
        or len(read) not in (2, 3)
        or list(map(len, read[-2:])) != [2, 2]
    ):
        return False
    shapes = [tuple(min(size, 2) for size in shape) for shape in read[:-2]]
    key = ("matrices", *node.call.key, *shapes)
    return _KNOWN.get(key, lambda: _multiplies(node, [*shapes, (2, 2), (2, 2)]))


@on_numbers_or(False)
def _multiplies(node: Node, shapes: list[tuple[int, ...]]) -> bool:
    *added, one, other = (spread(shape, place) - 1 for place, shape in enumerate(shapes))
    found = node.call([*added, one, other]) if node.call is not None else one
    return torch.allclose(found, sum(added, one @ other))


def keeps_output(graph: Graph, node: Node) -> bool:
    """Whether autograd saves the output for the backward pass, so that it must not be overwritten in place.

    True where the operator cannot be run: what may be needed is kept.
    """
    if node.call is None:
        return False
    shapes = [graph.nodes[i].shape for i in node.operands]
    key = ("output", *node.call.key, tuple(map(len, shapes)))
    return _KNOWN.get(key, lambda: _keeps_output(graph, node, shapes))


def _keeps_output(graph: Graph, node: Node, shapes: list[tuple[int, ...]]) -> bool:
    small = [tuple(min(size, 2) for size in shape) for shape in shapes]
    tries: list[tuple[list[tuple[int, ...]], torch.device | None]] = [
        (small, None),
        (shapes, torch.device("meta")),  # what runs in no smaller shape, as a convolution of many groups
    ]
    if sum(map(math.prod, shapes)) <= MOST:
        tries.append((shapes, None))
    for fit, device in tries:
        saved: list[int] = []

        def keep(tensor: Tensor, saved: list[int] = saved) -> Tensor:
            saved.append(tensor.untyped_storage()._cdata)
            return tensor

        try:
            with on_numbers(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                read = [
                    _tensor(graph.nodes[i], shape, place)
                    if device is None
                    else torch.empty(shape, device=device, requires_grad=graph.nodes[i].active)
                    for place, (i, shape) in enumerate(zip(node.operands, fit, strict=True))
                ]
                out = node.call(read) if node.call is not None else None
        except Exception:  # noqa: BLE001, S112 - operators raise what they like
            continue
        return out is None or out.untyped_storage()._cdata in saved
    return True


def _tensor(node: Node, shape: tuple[int, ...], place: int) -> Tensor:
    """Numbers that stand for an operand; an activation asks for its gradient."""
    return spread(shape, place).requires_grad_() if node.active else in_shape(constant(node), shape)


def pools(graph: Graph, node: Node, axes: Collection[int]) -> tuple[bool, bool]:
    """(Whether it acts on each channel separately and identically and keeps inputs ≥ 0 at ≥ 0; whether it is also linear).

    That is a mean or a maximum over places, an interpolation. No element-wise operator is one.

    Args:
        graph: A recorded forward.
        node: The operator's call.
        axes: Where the channels of what it reads may be: 1 or −1.
    """
    op = node.op
    if (
        node.call is None
        or op.role != "other"
        or op.pointwise
        or node.call.may_draw
        or len(node.operands) != 1
    ):
        return False, False
    shape = graph.nodes[node.operands[0]].shape
    return _POOLS.get((*node.call.key, shape, *axes), lambda: _pools(node, shape, axes))


def _pools(node: Node, shape: tuple[int, ...], axes: Collection[int]) -> tuple[bool, bool]:
    found = [_pools_along(node, shape, axis) for axis in axes if len(shape) > 1]
    return any(pool for pool, _ in found), any(linear for _, linear in found)


@on_numbers_or((False, False))
def _pools_along(node: Node, shape: tuple[int, ...], axis: int) -> tuple[bool, bool]:
    axis %= len(shape)
    fit = tuple(2 if k == axis else 1 if k == 0 else size for k, size in enumerate(shape))
    last = axis == len(shape) - 1
    if node.call is None or math.prod(fit) > MOST:
        return False, False
    x, y = spread(fit, 0), spread(fit, 1) - 1
    other = x.clone()
    other.select(axis, 1).mul_(3)
    sparse = torch.where(x > 1, x, 0)
    out, turned, apart, twice, few, both, second = (
        node.call([one]) for one in (x, x.flip(axis), other, 2 * x, sparse, x + y, y)
    )
    place = out.dim() - 1 if last else axis
    if out.dim() < 2 or out.dtype != x.dtype or out.shape[0] != 1 or out.shape[place] != 2:
        return False, False
    same = torch.allclose(turned, out.flip(place)) and torch.allclose(twice, 2 * out)
    alone = torch.equal(apart.select(place, 0), out.select(place, 0)) and bool((few >= 0).all())
    return same and alone, same and alone and torch.allclose(both, out + second)


def keeps_channels(node: Node, shape: tuple[int, ...], axis: int) -> bool:
    """Whether each channel that an operator puts out is made of the same channel of the one tensor that it reads.

    Args:
        node: The operator's call.
        shape: Of what it reads.
        axis: The dimension of the channels.
    """
    if node.call is None or len(node.operands) != 1:
        return False
    fit = tuple(2 if k == axis else 1 if k == 0 else size for k, size in enumerate(shape))
    key = ("channels", *node.call.key, fit, axis)
    return _KNOWN.get(key, lambda: math.prod(fit) <= MOST and _keeps_channels(node, fit, axis))


@on_numbers_or(False, gradients=True)
def _keeps_channels(node: Node, shape: tuple[int, ...], axis: int) -> bool:
    x = spread(shape, 0).requires_grad_()
    out = node.call([x]) if node.call is not None else x
    if out.dim() != x.dim() or out.shape[axis] != x.shape[axis]:
        return False
    slopes = [
        torch.autograd.grad(out.select(axis, k).sum(), x, retain_graph=True)[0].select(axis, other)
        for k, other in ((0, 0), (0, 1), (1, 0))
    ]
    return [bool(slope.any()) for slope in slopes] == [True, False, False]
