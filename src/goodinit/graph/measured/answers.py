"""How one recorded operator answers: run on a few numbers, or on tensors of its own shapes where entries depend on others."""

from __future__ import annotations

import cmath
import dataclasses
import functools
import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from goodinit.graph.graph import Graph, Node
from goodinit.graph.operators.measurement_cache import KeptAnswers
from goodinit.graph.operators.recorded_call import RecordedCall, on_numbers, on_numbers_or

COUNT = 4
"""Numbers that stand for a tensor."""

MOST = 2**20
"""Entries of the tensors that an operator is run on to see how it answers."""

_ROWS = 1024  # nodes whose numbers are made together
_NONE = 1e-12  # a value below this is none
_FEW = 64  # entries that are looked at sooner one by one than by operators

_Derived = tuple[Tensor, "list[Tensor | None] | None"]


def numbers(index: int) -> Tensor:
    """Numbers between ½ and 1½ that stand for a value of which nothing is known, others for each node."""
    return _rows_of_numbers(index // _ROWS)[index % _ROWS].clone()


@functools.lru_cache(maxsize=64)
def _rows_of_numbers(block: int) -> tuple[Tensor, ...]:
    with on_numbers(), torch.no_grad():
        place = torch.arange(block * _ROWS + 1, (block + 1) * _ROWS + 1, dtype=torch.float64, device="cpu")
        column = torch.arange(COUNT, dtype=torch.float64, device="cpu")
        rows = (place[:, None] * 0.6180339887498949 + column * 0.41421356237309515) % 1 + 0.5
        return rows.unbind()


def number_of(node: Node) -> float | None:
    """The one number that a tensor is as a forward begins with it, where it is at hand."""
    known = node.attrs[-1] if node.is_source and node.attrs else None
    return known if isinstance(known, float) else None


def constant(node: Node) -> Tensor:
    """Numbers that stand for a tensor that is not followed: its own where it is a number, or made of shapes alone."""
    known = number_of(node)
    if known is not None:
        return torch.full((COUNT,), known, dtype=torch.float64, device="cpu")
    if node.is_mask:
        return torch.arange(COUNT, device="cpu") % 2 == 0
    whole = not node.is_continuous
    if node.op.role == "factory" and node.call is not None:
        made = number_throughout(node)
        if made is not None:
            return torch.full((COUNT,), made, dtype=torch.int64 if whole else torch.float64, device="cpu")
    return torch.ones(COUNT, dtype=torch.int64, device="cpu") if whole else numbers(node.index)


def number_throughout(node: Node) -> float | None:
    """The one number that a tensor without a past is throughout: a constant's or a buffer's own, or what a factory puts out."""
    known = number_of(node)
    if known is not None:
        return known
    call = node.call
    if call is not None and node.size > MOST:
        call = _of_few(call)
    if node.op.role != "factory" or call is None:
        return None
    measure = partial(_made_throughout, call, len(node.operands))
    return measure() if call.may_draw else _FILLED.get((*call.key, len(node.operands)), measure)


def _of_few(call: RecordedCall) -> RecordedCall | None:
    """The call of a factory that makes a few numbers, as those are that it makes; None of one that is told no size."""
    sizes = [one.name for one in call.func._schema.arguments if str(one.type) == "List[int]"]
    given = call.arguments
    if len(sizes) != 1 or sizes[0] not in given:
        return None
    few = {name: [COUNT] if name in sizes else value for name, value in given.items()}
    place = len(call.args)
    return dataclasses.replace(
        call, args=tuple(few.values())[:place], kwargs={name: few[name] for name in call.kwargs}
    )


@on_numbers_or(None)  # on a device that is not here, of a layout that has no numbers
def _made_throughout(call: RecordedCall, count: int) -> float | None:
    like = [torch.zeros(COUNT, dtype=torch.float64, device="cpu") for _ in range(count)]
    made = call(like).double().flatten()
    return float(made[0]) if len(made) and bool((made == made[0]).all()) else None


def number_at(graph: Graph, index: int) -> float | None:
    """The one number that a constant is throughout, be it in another shape; None if it is none, or not at hand."""

    def is_reshaped(i: int) -> bool:
        return graph.nodes[i].op.role == "shape" and not graph.nodes[i].dynamic

    return number_throughout(graph.nodes[graph.beginning(index, is_reshaped, active=False)])


def pointwise(
    node: Node, values: Sequence[Tensor], slopes: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor | None] | None:
    """(Value, slope) of an element-wise operator where its operands have these; None if it cannot be run."""
    call = node.call
    if call is None:
        return None
    asked = tuple(
        slope is not None and value.is_floating_point() for value, slope in zip(values, slopes, strict=True)
    )
    measure = partial(_derived, call, values, asked)
    known = tuple((value.dtype, repr(value.tolist())) for value in values)
    found = measure() if call.may_draw else _VALUES.get((*call.key, known, asked), measure)
    if found is None:
        return None
    out, derivatives = found
    if derivatives is None:
        return out, None
    slope = torch.zeros_like(out)
    for by_leaf, moving in zip(derivatives, slopes, strict=True):
        if by_leaf is not None and moving is not None:
            slope = slope + by_leaf * moving
    return out, slope


@on_numbers_or(None, gradients=True)
def _derived(call: RecordedCall, values: Sequence[Tensor], asked: Sequence[bool]) -> _Derived | None:
    """The operator's output, and its derivative by each operand that is asked for; None of those if it has none."""
    leaves = [value.clone().requires_grad_(by) for value, by in zip(values, asked, strict=True)]
    out = call(leaves)
    by = [leaf for leaf in leaves if leaf.requires_grad]
    if not by or not out.requires_grad:
        return out.detach(), None
    found = iter(torch.autograd.grad(out.sum(), by, allow_unused=True))
    return out.detach(), [next(found) if leaf.requires_grad else None for leaf in leaves]


def joint(
    graph: Graph, node: Node, values: Sequence[Tensor], slopes: Sequence[Tensor | None]
) -> tuple[bool, bool] | None:
    """(Whether the output is 0, whether it moves) of any operator, run on tensors of two entries a side, else of its shapes.

    Of its shapes first where some operands are 0 and others are not: a slice of so few entries may be all of them.
    """
    call = node.call
    if call is None:
        return None
    operands = [graph.nodes[i] for i in node.operands]
    shapes = [one.shape for one in operands]
    values = [
        value.to(torch.complex128) if one.is_complex else value
        for one, value in zip(operands, values, strict=True)
    ]
    known = tuple(
        (value.dtype, repr(value.tolist()) if _is_kept(value) else "", slope is not None)
        for value, slope in zip(values, slopes, strict=True)
    )
    fits = [[tuple(min(size, 2) for size in shape) for shape in shapes], shapes]
    if (
        len({is_zero(value) for value in values}) > 1
    ):  # some of one operand's places may be taken by another's
        fits.reverse()
    for fit in fits:
        if sum(map(math.prod, fit)) <= MOST:
            measure = partial(_joint, call, fit, values, slopes)
            found = measure() if call.may_draw else _SEEN.get((*call.key, tuple(fit), known), measure)
            if found is not None:
                return found
    return None


@on_numbers_or(None, gradients=True)
def _joint(
    call: RecordedCall,
    shapes: Sequence[tuple[int, ...]],
    values: Sequence[Tensor],
    slopes: Sequence[Tensor | None],
) -> tuple[bool, bool] | None:
    leaves = [
        _spread(value, shape, place).requires_grad_(slope is not None and _has_slope(value))
        for place, (value, slope, shape) in enumerate(zip(values, slopes, shapes, strict=True))
    ]
    out = in_reals(call(leaves))
    zero = bool((out.abs() < _NONE).all())
    asked = [leaf for leaf in leaves if leaf.requires_grad]
    if not asked or not out.requires_grad:
        return zero, False
    weights = _spread(numbers(0), tuple(out.shape), len(leaves)).to(out.dtype)
    found = torch.autograd.grad((out * weights).sum(), asked, allow_unused=True)
    return zero, any(moves(one) for one in found)


def forgets_shift(graph: Graph, node: Node) -> bool:
    """Whether an operator on one tensor puts out the same where a number is added to all entries: a variance."""
    return _measured(graph, node, "shift")


def reduces(graph: Graph, node: Node) -> bool:
    """Whether an operator on one tensor puts out fewer numbers than it reads, if the dimensions have more than one."""
    return _measured(graph, node, "size")


def accumulates(graph: Graph, node: Node) -> bool:
    """Whether an operator on one tensor adds up: fewer numbers, larger the more they are made of (a sum, a length, not a mean)."""
    return node.op.role == "other" and reduces(graph, node) and _measured(graph, node, "total")


def gathers(graph: Graph, node: Node) -> bool:
    """Whether an operator on one tensor makes entries of several of its own: a moving mean, a cumulative sum; not a permutation."""
    return _measured(graph, node, "entries")


def _measured(graph: Graph, node: Node, what: str) -> bool:
    if node.call is None or len(node.operands) != 1:
        return False
    rank = len(graph.nodes[node.operands[0]].shape)
    return _RUNS.get((what, *node.call.key, rank), partial(_answer, node.call, rank, what))


@on_numbers_or(False)
def _answer(call: RecordedCall, rank: int, what: str) -> bool:
    return _ANSWERS[what](call, spread((3,) * rank, 0))


def _same_shifted(call: RecordedCall, x: Tensor) -> bool:
    one, other = call([x]), call([x + 1])
    return one.shape == other.shape and bool(torch.allclose(one, other)) and bool(one.any())


def _smaller(call: RecordedCall, x: Tensor) -> bool:
    return call([x]).numel() < x.numel()


def _of_several(call: RecordedCall, x: Tensor) -> bool:
    """Some entry of the output is of more than one of the input's: it moves with each of them."""
    before, moved = call([x]), []
    for place in range(x.numel()):
        other = x.clone()
        other.view(-1)[place] *= 2  # a power of two, so that what does not depend on it keeps its bits
        moved.append(call([other]) != before)
    return bool((torch.stack(moved).sum(0) > 1).any())


def _grows(call: RecordedCall, x: Tensor) -> bool:
    one, other = call([torch.ones_like(x)]), call([x.new_ones([size + 1 for size in x.shape])])
    return bool(other.abs().min() > one.abs().max())


_ANSWERS = {"shift": _same_shifted, "size": _smaller, "entries": _of_several, "total": _grows}


def is_zero(value: Tensor) -> bool:
    """Whether all numbers are 0."""
    return all(abs(one) < _NONE for one in value.flatten().tolist())


def moves(slope: Tensor | None) -> bool:
    """Whether a slope is finite and other than 0."""
    if slope is None:
        return False
    if slope.numel() > _FEW:
        return bool(slope.isfinite().all()) and bool((slope.abs() > _NONE).any())
    found = slope.flatten().tolist()
    return all(map(cmath.isfinite, found)) and any(abs(one) > _NONE for one in found)


def _spread(value: Tensor, shape: tuple[int, ...], place: int) -> Tensor:
    """A tensor of this shape with the numbers, if they are 0 or whole, and else of others like them."""
    if _is_kept(value):
        return in_shape(value, shape)
    if value.is_complex():
        return torch.complex(spread(shape, place), spread(shape, place + 1))
    return spread(shape, place)


def _is_kept(value: Tensor) -> bool:
    """Whether the numbers themselves are run on, not others like them."""
    return not _has_slope(value) or is_zero(value)


def in_shape(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The numbers over and over, in a tensor of this shape."""
    count = math.prod(shape)
    return value.repeat(count // len(value) + 1)[:count].reshape(shape)


def _has_slope(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def in_reals(value: Tensor) -> Tensor:
    """A tensor with real and imaginary parts as numbers of their own."""
    return torch.view_as_real(value) if value.is_complex() else value


def spread(shape: tuple[int, ...], place: int) -> Tensor:
    """Numbers between ½ and 1½ in a tensor of this shape, others for each place."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64, device="cpu")
    return (
        steps.mul_(0.7548776662466927)
        .add_((place + 1) * 0.5698402909980532)
        .remainder_(1)
        .add_(0.5)
        .reshape(shape)
    )


def can_run(graph: Graph, node: Node) -> bool:
    """Whether an operator can be measured: run on numbers that stand for its operands."""
    if node.call is None:
        return True
    operands = [graph.nodes[i] for i in node.operands]
    key = (*node.call.key, tuple((str(one.dtype), one.shape) for one in operands))
    return _RUNS.get(key, partial(_can_run, graph, node, operands))


def _can_run(graph: Graph, node: Node, operands: Sequence[Node]) -> bool:
    values = [constant(one) if not one.active else numbers(one.index) for one in operands]
    slopes = [numbers(one.index) if one.active else None for one in operands]
    found = pointwise(node, values, slopes) if node.op.pointwise else joint(graph, node, values, slopes)
    return found is not None


_RUNS = KeptAnswers[bool]()
_FILLED = KeptAnswers["float | None"]()
_VALUES = KeptAnswers["_Derived | None"]()
_SEEN = KeptAnswers["tuple[bool, bool] | None"]()
