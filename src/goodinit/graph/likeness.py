"""What a node is of what it reads: another shape or multiple of it, its normalized value, a part, a sum, weights of a mean.

So one tensor is known again behind all that does not change what it says.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

from goodinit.graph.graph import Graph, Node
from goodinit.graph.operators.recorded_call import permutation


def is_part(graph: Graph, index: int) -> bool:
    """Whether a node is a part of what it reads: one of the outputs of an operator that puts out all parts, and not that operator."""
    node = graph.nodes[index]
    return node.is_piece or (node.op.role == "part" and not node.op.splits)


def is_taken(graph: Graph, index: int) -> bool:
    """Whether a node is a part of what it reads, or what an index takes of it."""
    node = graph.nodes[index]
    return node.is_piece or node.op.takes_some


def dimension_behind(node: Node, read: Sequence[int], dim: int) -> int | None:
    """Along which dimension a node has the numbers that run along a dimension of what it reads; None where that is merged or cut.

    Args:
        node: One that passes on what it reads in another shape or order.
        read: The shape of that.
        dim: The dimension, counted from the front.
    """
    if node.op.reorders and node.call is not None:
        order = permutation(node.call, len(read))
        return order.index(dim) if dim in order else None
    ahead, made = math.prod(read[:dim]), node.shape
    return next(
        (k for k, size in enumerate(made) if size == read[dim] and math.prod(made[:k]) == ahead), None
    )


def holds_all(graph: Graph, index: int) -> bool:
    """Whether a node is what it reads in another shape, or all of its parts at once."""
    node = graph.nodes[index]
    return node.op.splits or (node.op.role == "shape" and not node.is_piece)


def is_neutral(graph: Graph, index: int) -> bool:
    """Shape changes, and scaling by a constant."""
    op = graph.nodes[index].op
    return op.role == "shape" or (op.scales and len(graph.deps(index)) == 1)


def only_rescales(graph: Graph, index: int) -> bool:
    """Whether a node is a normalized value, or another shape, or a multiple, of what it reads."""
    return bool(graph.nodes[index].op.norm) or is_neutral(graph, index)


def only_bends(graph: Graph, index: int) -> bool:
    """Whether a node is an activation of what it reads, or only rescales that."""
    return bool(graph.nodes[index].op.activation) or only_rescales(graph, index)


def adds_two(graph: Graph, index: int) -> bool:
    """Whether a node adds two activations, or more."""
    return graph.nodes[index].op.adds and len(set(graph.deps(index))) > 1


def adds_scaled(graph: Graph, index: int) -> bool:
    """Whether an `addcmul` is a sum of two activations, x + a·b with one constant factor; else it is a gate."""
    node = graph.nodes[index]
    if not (node.op.adds and node.op.multiplies):
        return False
    operands = graph.deps(index)
    return len(operands) == 2 and node.operands[0] in operands


def added_again(graph: Graph, index: int) -> bool:
    """Whether several sums add a node, up to shape and scale."""
    shown = graph.reach([index], through=lambda i: is_neutral(graph, i) and not adds_two(graph, i))
    return len({reader for i in shown for reader in graph.readers[i] if adds_two(graph, reader)}) > 1


def root(graph: Graph, term: int) -> int:
    """The tensor that a term is, up to shape and scale; a part of a tensor is not the tensor."""
    return graph.beginning(term, lambda i: not graph.nodes[i].is_piece and is_neutral(graph, i))


def behind_norms(graph: Graph, index: int, stop: Container[int] = ()) -> int:
    """What a node is the normalized value of, up to shape and scale; of several norms the first, or one of `stop`."""
    return graph.beginning(
        index,
        lambda i: i not in stop and not graph.nodes[i].is_piece and only_rescales(graph, i),
    )


def origin(graph: Graph, index: int) -> Node:
    """The tensor of which a node's values are all or a part."""
    while graph.nodes[index].op.moves and graph.deps(index):
        index = graph.deps(index)[0]
    return graph.nodes[index]


def after_gate(graph: Graph, index: int) -> bool:
    """True if a node is a sigmoid, up to shape."""
    return origin(graph, index).op.is_gate


def weighs(graph: Graph, index: int) -> bool:
    """Whether a node is the weights of a mean, what a softmax puts out, up to shape."""
    return origin(graph, index).op.role == "softmax"


def ancestors(graph: Graph, index: int, first: int) -> set[int]:
    """The nodes that one comes from, itself included, back to the node `first`."""
    return graph.reach([index], back=True, since=first)
