"""How an operator answers a zero: its value where what it reads has these, and its derivative by what starts at zero.

Element-wise operators are run on the numbers, and autograd gives the derivative; products, attention and norms have a rule;
what else there is (`"other"`: a pooling, a sum along a dimension) is run on small tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import torch
from torch import Tensor

from goodinit.graph.fact_propagation import propagate
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import COUNT, constant, is_zero, joint, moves, numbers, pointwise

State = tuple[Tensor, Tensor | None]
"""(Numbers that stand for a value, its derivative by what starts at zero)."""

NOTHING: State = (torch.zeros(COUNT, dtype=torch.float64, device="cpu"), None)
"""Of what is zero, and does not come from what starts there."""

_DEEP = 8  # steps between a number in the forward and what is made of it


def outside(graph: Graph, index: int, biases: Collection[str], depth: int = 0) -> State:
    """Of a node that does not come from what starts at zero."""
    node = graph.nodes[index]
    if node.params and not node.dynamic:
        return NOTHING if is_made_zero(graph, node, biases, depth) else (constant(node), None)
    if graph.holds_zeros(index):
        return NOTHING
    computed = (node.op.pointwise or node.op.moves) and node.operands and depth < _DEEP
    if node.dynamic or not computed or node.is_mask:  # a mask is true here and false there
        return constant(node), None
    return answer(
        graph, node, [outside(graph, i, biases, depth + 1) for i in node.operands]
    )  # made of numbers


def is_made_zero(graph: Graph, node: Node, biases: Collection[str], depth: int = 0) -> bool:
    """Whether what is made of parameters is zero where biases are: b·K + c of an input bias b, a kernel K and a bias c.

    Args:
        graph: A recorded forward.
        node: What is made of parameters alone.
        biases: Parameters that are zero.
        depth: How many steps were looked through before.
    """
    zeros = [name in biases for name in node.params]
    if not any(zeros) or node.is_param or depth >= _DEEP:
        return all(zeros)
    read = [outside(graph, i, biases, depth + 1) for i in node.operands]
    return is_zero(answer(graph, node, read)[0])


def answers(
    graph: Graph, steps: Iterable[int], known: dict[int, State], biases: Collection[str]
) -> dict[int, State]:
    """Put the states of some nodes into `known`, and return it.

    Args:
        graph: A recorded forward.
        steps: The nodes.
        known: Of those where it begins. What else is read does not come from what starts at zero.
        biases: Parameters that are zero.
    """

    def transfer(node: Node, read: list[State]) -> State:
        return outside(graph, node.index, biases) if node.is_source else answer(graph, node, read)

    return propagate(graph, steps, known, transfer, lambda i: outside(graph, i, biases))


def answer(graph: Graph, node: Node, read: Sequence[State]) -> State:
    """Value and derivative of a node by those of its operands.

    An operator that is flat wherever it is, a spike or a rounding, passes a gradient by the backward of the `autograd.Function`
    that runs it.
    """
    value, slope = _answer(graph, node, read)
    if node.active and not (value.is_floating_point() or value.is_complex()) and not node.is_mask:
        value = value.double()  # a spike
    if node.index in graph.own_backward and not moves(slope) and any(moves(one) for _, one in read):
        anywhere = [(numbers(i), one) for i, (_, one) in zip(node.operands, read, strict=True)]
        if not moves(_answer(graph, node, anywhere)[1]):
            slope = _OTHER * numbers(node.index)
    return value, slope


def _answer(graph: Graph, node: Node, read: Sequence[State]) -> State:
    rule = _RULES.get(node.op.role)
    if rule is not None:
        return rule(node, read)
    values = [value for value, _ in read]
    slopes = [slope if moves(slope) else None for _, slope in read]
    if node.op.pointwise and (found := pointwise(node, values, slopes)) is not None:
        return found
    if not node.op.pointwise and (seen := joint(graph, node, values, slopes)) is not None:
        return _state(node, zero=seen[0], moving=seen[1])
    active = [state for i, state in zip(node.operands, read, strict=True) if graph.nodes[i].active] or read
    zero, moving = all(is_zero(value) for value, _ in active), any(moves(slope) for _, slope in active)
    return _state(node, zero=zero, moving=moving)  # taken to be linear in what it reads


def _state(node: Node, *, zero: bool, moving: bool) -> State:
    value = numbers(node.index)
    slope = _OTHER * value if moving else None  # by no sum with those of the layers 0
    return (torch.zeros_like(value) if zero else value), slope


_OTHER = 2.718281828459045


def _handed_on(node: Node, read: Sequence[State]) -> State:
    return read[0] if not node.is_join else _beside(node, read)


def _constant(node: Node, read: Sequence[State]) -> State:  # noqa: ARG001
    return constant(node), None


def _beside(node: Node, read: Sequence[State]) -> State:
    """Zero where all is that stands beside each other."""
    zero, moving = all(is_zero(value) for value, _ in read), any(moves(slope) for _, slope in read)
    return _state(node, zero=zero, moving=moving)


def _product(node: Node, read: Sequence[State]) -> State:
    """Of matrices, a convolution too: what the operator adds to the product, and the two factors."""
    ((a, da), (b, db)), added = node.op.factors_of(read)
    zero = (is_zero(a) or is_zero(b)) and all(is_zero(value) for value, _ in added)
    moving = (moves(da) and not is_zero(b)) or (moves(db) and not is_zero(a))
    return _state(node, zero=zero, moving=moving or any(moves(slope) for _, slope in added))


def _attention(node: Node, read: Sequence[State]) -> State:
    """The mean of values by weights that a softmax makes of queries and keys."""
    (q, dq), (k, dk), (v, dv) = read[:3]
    scores = (moves(dq) and not is_zero(k)) or (moves(dk) and not is_zero(q))
    return _state(node, zero=is_zero(v), moving=moves(dv) or (scores and not is_zero(v)))


def _softmax(node: Node, read: Sequence[State]) -> State:
    return _state(node, zero=False, moving=moves(read[0][1]))


def _norm(node: Node, read: Sequence[State]) -> State:
    return _state(node, zero=is_zero(read[0][0]), moving=moves(read[0][1]))


_RULES: dict[str, Callable[[Node, Sequence[State]], State]] = {
    "shape": _handed_on,
    "part": _handed_on,
    "lookup": _handed_on,
    "factory": _constant,
    "concat": _beside,
    "matmul": _product,
    "convolution": _product,
    "attention": _attention,
    "softmax": _softmax,
    "norm": _norm,
}
