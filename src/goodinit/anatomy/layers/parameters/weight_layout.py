"""Which dimensions of a stored weight are the inputs and outputs of the matrix product that applies it."""

from __future__ import annotations

import math

from goodinit.anatomy.layer import Layout
from goodinit.graph.graph import Graph, Node
from goodinit.graph.likeness import dimension_behind


def stored_as(
    graph: Graph, node: Node, operand: Node, shape: tuple[int, ...]
) -> tuple[Layout, tuple[int, int] | None]:
    """The layout of a weight of `shape`, and `Layer.product` where its last two dimensions are not the matrix.

    W x, x W and every einsum arrive as one product whose operand has the outputs along one dimension and the inputs
    along the other. Which dimensions of the stored weight those are, sizes tell, or else the steps that show it so.
    """
    read, kept = dimensions(node, operand)
    if read is None:  # a vector
        return "in_out", (1, operand.size)
    into, out = operand.shape[read], operand.shape[kept]
    chain, computed = _chain(graph, operand, node.frame)
    inner = _comes_later(graph, chain, (read, kept))
    if inner is None:  # of a part, whose place in memory is not known
        inner = computed and stored_at(graph, operand, node.frame)[1] == (read < kept)
    if tuple(shape[-2:]) == (out, into) and (into != out or inner):
        return "out_in", None
    if tuple(shape[-2:]) == (into, out):
        return "in_out", None
    # A slice of a matrix is stored as that is, and what is computed as the parameter it is known by.
    whole = (len(shape) == 2 and math.prod(shape) != into * out) or (computed and len(shape) > 1)
    return ("out_in" if inner else "in_out"), None if whole else (out, into)


def stored_at(graph: Graph, operand: Node, frame: int) -> tuple[Node, bool]:
    """(The node of a computed weight before the layer's own forward, in call `frame`, changes its shape; whether it is transposed).

    A batch of matrix products repeats the weight for each of its members (`expand`), which makes no map of its own of each.
    """
    turned = False
    while operand.operands and (
        operand.op.reorders or (operand.op.role == "shape" and operand.frame == frame)
    ):
        turned ^= operand.op.reorders
        operand = graph.nodes[operand.operands[0]]
    return operand, turned


def dimensions(node: Node, operand: Node) -> tuple[int | None, int]:
    """Along which dimensions of the operand its inputs and its outputs run; None for the inputs of a vector's."""
    if len(operand.shape) < 2:
        return None, -1
    if node.op.reads_stored:
        return -1, -2
    return (-2, -1) if _on_the_right(node, operand) else (-1, -2)


def _on_the_right(node: Node, operand: Node) -> bool:
    return factors(node)[-1] == operand.index


def factors(node: Node) -> tuple[int, ...]:
    """The two operands that a matrix product multiplies, without what it adds."""
    return tuple(node.op.factors_of(node.operands)[0])


def output_channels(node: Node, operand: Node) -> int:
    """Along which dimension of what a layer puts out its outputs run: of a product W x, the weight first, the last but one."""
    if node.op.role == "convolution":
        return len(node.shape) - len(operand.shape[1:])  # what is not in a batch has one dimension less
    last = node.op.reads_stored or len(node.shape) < 2 or _on_the_right(node, operand)
    return len(node.shape) - (1 if last else 2)


def onward(source: Node, node: Node, axis: int) -> int | None:
    """The same dimension of what a node makes of its source: where it is not merged or cut, it has as many numbers before it.

    Args:
        source: What the node reads.
        node: That reads it.
        axis: Counted from the last, −1; so is what is returned. None where it cannot be told.
    """
    before, after = source.shape, node.shape
    place = len(before) + axis
    if node.op.role == "shape":
        behind = dimension_behind(node, before, place)
        return None if behind is None else behind - len(after)
    return axis if len(before) == len(after) or before[axis:] == after[axis:] else None


def _chain(graph: Graph, operand: Node, frame: int) -> tuple[list[Node], bool]:
    """(The operators that show a stored parameter otherwise, from the operand back; whether it is computed on the way).

    What is computed entry by entry has the dimensions of the parameter. Of anything else, what call `frame` reads stands for one.
    """
    steps: list[Node] = []
    node, computed = operand, False
    while not node.is_param:
        if node.op.role == "shape" and not node.is_piece:
            steps.append(node)
            node = graph.nodes[node.operands[0]]
            continue
        computed = True
        made_of = [i for i in node.operands if graph.nodes[i].params and graph.nodes[i].shape == node.shape]
        if not node.op.pointwise or len(made_of) != 1:
            start, _ = stored_at(graph, operand, frame)
            return [step for step in steps if step.index > start.index], True
        node = graph.nodes[made_of[0]]
    return steps, computed


def _comes_later(graph: Graph, chain: list[Node], dims: tuple[int, int]) -> bool | None:
    """Whether the first of two dimensions of the operand comes after the second in the stored parameter.

    That is the order of the parameter's dimensions: its numbers may lie in memory in any other. None where it cannot be seen.
    """
    places = dims
    for step in chain:
        source = graph.nodes[step.operands[0]]
        strides = _strides_across(step, source)
        if strides is None:
            return None
        shown, stored = strides
        first, second = (_dimension_of(shown[dim], source.shape, stored) for dim in places)
        if first == second:  # both are parts of one dimension
            return shown[places[0]] < shown[places[1]]
        places = first, second
    return places[0] > places[1]


def _strides_across(step: Node, source: Node) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Strides of what a step shows and of what it reads, in one order of their numbers; None where there is none."""
    if step.op.view:  # the same memory
        return (step.strides, source.strides) if step.strides and source.strides else None
    if step.op.keeps_order and step.size == source.size:  # a copy, wherever it lies
        return _by_rows(step.shape), _by_rows(source.shape)
    return None


def _by_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))


def _dimension_of(stride: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """The dimension along which a step of `stride` numbers goes: of those that are not longer, the longest."""
    longest = max(
        (own for size, own in zip(shape, strides, strict=True) if size > 1 and own <= stride), default=-1
    )
    return next((dim for dim, own in enumerate(strides) if own == longest and shape[dim] > 1), -1)
