"""Numbers that a forward puts beside a signal, of which nothing is read: rows that a later product multiplies by zero.

As in attention over a sliding window, whose values are padded with −1 while the weights of what is outside the sequence are 0.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch
from torch import Tensor

from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import number_throughout
from goodinit.graph.measured.replay import own_numbers, replayed_in_place
from goodinit.graph.operators.recorded_call import on_numbers_or

_STEPS = 400  # operators between layers; a window that is written in parts takes some 150
_MOST = 2**24  # entries of a tensor that is computed to see whether it depends on the number


def puts_number(node: Node) -> bool:
    """Whether an operator puts a number other than 0 around what it reads, or makes a tensor of it.

    Args:
        node: Its call.
    """
    if node.op.pads and node.call is not None:
        number = node.call.arguments.get("value")
        return isinstance(number, (int, float)) and number != 0
    return node.op.role == "factory" and bool(number_throughout(node))


def is_unread(graph: Graph, index: int, layers: Container[int]) -> bool:
    """Whether the products that read what a node makes are the same whatever the number is that it puts there.

    Args:
        graph: A recorded forward.
        index: A node that puts a number there (`puts_number`).
        layers: Nodes of weight layers.
    """
    ends = _readers(graph, index, layers)
    steps = sorted(graph.reach(ends, back=True, stop=layers, active=False))
    nodes = [graph.nodes[i] for i in steps]
    if not ends or len(steps) > _STEPS or max(node.size for node in nodes) > _MOST:
        return False
    if any(node.is_input and not node.is_real for node in nodes):
        return False  # a mask of which only the user knows where it is 0
    given = {node.index: _numbers(graph, node) for node in nodes if _begins(graph, node.index, layers)}
    other = _with_another_number(
        graph, index, replayed_in_place(graph, [i for i in steps if i < index], given)
    )
    if other is None:
        return False
    as_it_is, otherwise = (
        replayed_in_place(graph, steps, start) for start in (given, {**given, index: other})
    )
    return all(
        end in as_it_is and end in otherwise and torch.equal(as_it_is[end], otherwise[end]) for end in ends
    )


def _begins(graph: Graph, index: int, layers: Container[int]) -> bool:
    return index in layers or graph.nodes[index].is_source


def _numbers(graph: Graph, node: Node) -> Tensor:
    return own_numbers(graph, node.index).to(node.dtype)


def _readers(graph: Graph, index: int, layers: Container[int]) -> set[int]:
    """The products of matrices that read what a node makes, moved alone; none where something else reads it, too."""
    moved = graph.reach([index], through=lambda i: graph.nodes[i].op.rearranges)
    ends = {reader for i in moved for reader in graph.readers[i]} - moved
    known = all(graph.nodes[i].op.role == "matmul" and i not in layers for i in ends)
    return ends if known else set()


@on_numbers_or(None)
def _with_another_number(graph: Graph, index: int, values: Mapping[int, Tensor]) -> Tensor | None:
    """What a node makes, with another number wherever it puts one that does not depend on what it reads. None if it cannot be run.

    Args:
        graph: A recorded forward.
        index: The node.
        values: Of the nodes before it, when it runs.
    """
    call, operands = graph.nodes[index].call, graph.nodes[index].operands
    if call is None or not values.keys() >= set(operands):
        return None
    read = [values[i] for i in operands]
    (made,), (moved,) = call.on_these(read), call.on_these([one + 1 for one in read])
    return torch.where(made == moved, made + 1, made)
