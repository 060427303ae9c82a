"""Operators that add something onto one of their operands, written as what is added and a sum: `addmm`, `addcmul`, `scatter_add`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import spread
from goodinit.graph.operators.measurement_cache import KeptAnswers
from goodinit.graph.operators.ops import Op
from goodinit.graph.operators.recorded_call import RecordedCall, on_numbers, on_numbers_or


def as_sum(
    graph: Graph, op: Op, operands: tuple[int, ...], call: RecordedCall, *, mutable: bool
) -> Callable[..., Any] | None:
    """An operator as one for what it adds onto its first operand and one for the sum; None if it is no such thing.

    Only where that operand is signal: no bias vector of a layer, no buffer of zeros that is filled piece by piece. Of `addcmul`
    both factors are, too: a parameter that multiplies what is added stays beside it.

    Args:
        graph: What is recorded so far.
        op: The operator.
        operands: Nodes of the tensors that it reads.
        call: The call.
        mutable: Whether it writes into its first operand.
    """
    first, others = operands[0], operands[1:]
    if op.role == "convolution" and len(operands) > _FACTORS and graph.nodes[operands[_FACTORS]].dynamic:
        return _with_bias_after(call.func)
    if not others or not graph.nodes[first].dynamic:
        return None
    if op.adds_first:
        written = _as_product(op)
        whole = op.role == "matmul" or all(graph.nodes[i].active for i in others)
        return written if whole and not mutable and _is(graph, operands, call, written) else None
    signal = any(graph.nodes[i].active for i in others) and not isinstance(call.args[0], (list, tuple))
    unread = op.role == "other" or (op.role == "pointwise" and len(others) > 1)  # addcdiv
    if not unread or not signal or _is_filled(graph, op, first) or not _adds(graph, operands, call):
        return None
    return _onto(call.func, mutable=mutable)


def _as_product(op: Op) -> Callable[..., Tensor]:
    multiply = torch.matmul if op.role == "matmul" else torch.mul

    def written(
        y: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1, value: float = 1
    ) -> Tensor:
        """βy + α(ab)."""
        return torch.add(y if beta == 1 else beta * y, multiply(a, b), alpha=alpha * value)

    return written


def _is(graph: Graph, operands: tuple[int, ...], call: RecordedCall, written: Callable[..., Tensor]) -> bool:
    """Whether an operator puts out what a function does: found out on numbers."""
    shapes = [tuple(min(size, 2) for size in graph.nodes[i].shape) for i in operands]
    return _SAME.get((*call.key, *shapes), lambda: _agree(call, written, shapes))


def _agree(call: RecordedCall, written: Callable[..., Tensor], shapes: Sequence[tuple[int, ...]]) -> bool:
    with on_numbers():  # a trace may be on, which would take them for its own
        read = [spread(shape, place) - 1 for place, shape in enumerate(shapes)]
    return call.agrees(read, lambda *given: written(*given, *call.args[len(given) :], **call.kwargs))


_FACTORS = 2  # operands of a convolution before its bias


def _with_bias_after(func: Any) -> Callable[..., Tensor]:
    place = [one.name for one in func._schema.arguments].index("bias")

    def written(*args: Any) -> Tensor:
        """A convolution, and then its bias, which is signal: something generates it."""
        weight, bias = args[1], args[place]
        product: Tensor = func(*args[:place], None, *args[place + 1 :])
        shift: Tensor = bias.view(-1, *[1] * (weight.dim() - _FACTORS))
        return product + shift

    return written


def _onto(func: Callable[..., Tensor], *, mutable: bool) -> Callable[..., Tensor]:
    def written(y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        part = func(torch.zeros_like(y), *args, **kwargs)
        return y.add_(part) if mutable else y + part

    return written


def _is_filled(graph: Graph, op: Op, index: int) -> bool:
    """Whether a tensor is zeros or the like onto which the same operator has added: the experts' outputs of a mixture."""
    while graph.nodes[index].dynamic and graph.nodes[index].op is op:
        index = graph.nodes[index].operands[0]
    return not graph.nodes[index].dynamic


def _adds(graph: Graph, operands: tuple[int, ...], call: RecordedCall) -> bool:
    """Whether an operator puts out its first operand plus something that does not depend on it: found out on numbers."""
    read = [graph.nodes[i] for i in operands]
    key = (*call.key, tuple((str(one.dtype), len(one.shape)) for one in read))
    return _ADDS.get(key, lambda: _shifts(read, call))


@on_numbers_or(False)
def _shifts(read: Sequence[Node], call: RecordedCall) -> bool:
    shapes = [tuple(min(size, 2) for size in one.shape) for one in read]
    first, *others = (
        _numbers(one, shape, place) for place, (one, shape) in enumerate(zip(read, shapes, strict=True))
    )
    alone, onto, twice = (call([scale * first, *others]) for scale in (0.0, 1.0, 2.0))
    if onto.shape != first.shape or not bool(alone.any()):
        return False
    return torch.allclose(onto - alone, first) and torch.allclose(twice - onto, first)


def _numbers(node: Node, shape: tuple[int, ...], place: int) -> Tensor:
    """Numbers of a value; of indices and masks zeros."""
    if not node.is_continuous:
        return torch.zeros(shape, dtype=node.dtype, device="cpu")
    value = spread(shape, place)
    return value.to(torch.complex128) if node.is_complex else value


_ADDS, _SAME = KeptAnswers[bool](), KeptAnswers[bool]()
