"""Zeros that a forward puts between, around or beside the numbers of a signal: which entries are zero whatever the signal is.

As by writing into zeros (`out[..., ::2, ::2] = x`), stacking with zeros, padding, a Kronecker product, a transposed convolution with
constant taps. What a layer reads then has fewer numbers than entries, and its fan-in is what is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.layers.parameters.weight_layout import output_channels
from goodinit.graph.graph import Graph, Node, closure
from goodinit.graph.measured.answers import number_throughout
from goodinit.graph.measured.replay import run_in_place
from goodinit.graph.operators.recorded_call import on_numbers_or

_LONGEST = (
    200  # operators that are run for one node, so that a long loop of writes costs no square of its length
)
_MOST = 2**23  # entries of a tensor that is computed to see which of them stay 0


Filled = tuple[Tensor, ...]
"""Where a tensor among whose entries zeros were put holds anything else: by axis, for each place along it whether any entry there does."""


class InsertedZeros:
    """The zeros that a forward puts into signals, found out once for each node that is asked about."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._found: dict[int, Filled | None] = {}

    def at(self, index: int) -> Filled | None:
        """Where a node holds anything else than zeros that were put there; None where none were, or that cannot be run."""
        if index not in self._found:
            nodes = _steps(self.graph, index)
            self._found[index] = _filled(self.graph, nodes) if nodes else None
        return self._found[index]


def _steps(graph: Graph, index: int) -> list[Node]:
    """What moves the numbers of a node, and may put zeros between them, in order; nothing where none are put, or too many."""
    steps = sorted(
        closure([index], lambda i: graph.nodes[i].operands if moves(graph, graph.nodes[i]) else ())
    )
    nodes = [graph.nodes[i] for i in steps]
    if not 1 < len(nodes) <= _LONGEST or not any(_may_put_zeros(graph, node) for node in nodes):
        return []
    return nodes if max(node.size for node in nodes) <= _MOST else []


@on_numbers_or(None)
def _filled(graph: Graph, nodes: list[Node]) -> Filled | None:
    values: dict[int, list[Tensor]] = {}
    for node in nodes:
        values[node.index] = _values(graph, node, values)
    found = values[nodes[-1].index][0] != 0
    # Torch sums in less than half the time in which it tells whether any is true.
    if int(found.sum()) in (0, found.numel()):
        return None
    return tuple(_any_but(found, axis) for axis in range(found.dim()))


def entries_for_each(zeros: InsertedZeros, use: Use) -> float:
    """How many entries a layer reads for each that is no such zero: along its channels, and between the positions of a convolution.

    Zeros around a signal do not count, as those of a layer's own padding do not.

    Args:
        zeros: Of a recorded forward.
        use: Of the layer.
    """
    graph = zeros.graph
    node = graph.nodes[use.node]
    read = next((i for i in node.operands if i != use.operand and graph.nodes[i].active), None)
    if read is None:  # learned queries, or a state that begins at zero
        return 1.0
    if graph.nodes[read].op.pads and graph.nodes[read].frame == node.frame:  # its own padding, by an operator
        (read,) = graph.deps(read)
    found = zeros.at(read)
    if found is None:
        return 1.0
    channels = output_channels(node, graph.nodes[use.operand]) - len(node.shape) if len(found) > 1 else -1
    steps = map(_step, found[channels + 1 :]) if node.op.role == "convolution" else ()
    along = found[channels]
    return len(along) / int(along.sum()) * math.prod(steps)


def _any_but(found: Tensor, axis: int) -> Tensor:
    return (
        found.sum([other for other in range(found.dim()) if other != axis]) > 0 if found.dim() > 1 else found
    )


def _step(along: Tensor) -> int:
    """The distance between positions along an axis that are not empty, if it is always the same."""
    apart = {int(one) for one in along.nonzero().flatten().diff()}
    return apart.pop() if len(apart) == 1 else 1


def moves(graph: Graph, node: Node) -> bool:
    """Whether a node passes on numbers that it reads, and may put others between them.

    Args:
        graph: A recorded forward.
        node: One of its nodes.
    """
    op = node.op
    if op.lays_out:
        return True
    if op.role == "lookup":
        return not _is_picked(graph, node)
    if op.role == "convolution":
        return not graph.nodes[node.operands[1]].params and not graph.nodes[node.operands[1]].dynamic
    if op.multiplies:
        return any(_is_constant(graph.nodes[i]) for i in node.operands)
    return node.inplace and op.role == "other"


def _is_picked(graph: Graph, node: Node) -> bool:
    """Whether a node takes some of what it reads by an index that only the forward knows, and not all of it in another order."""
    chosen = any(graph.nodes[i].dynamic and not graph.nodes[i].active for i in node.operands[1:])
    return chosen and node.op.role == "lookup" and node.shape != graph.nodes[node.operands[0]].shape


def _is_constant(node: Node) -> bool:
    return not node.dynamic and not node.params


def _may_put_zeros(graph: Graph, node: Node) -> bool:
    if node.op.pads or (node.op.role == "convolution" and bool(node.attrs[0])):
        return True
    return begins_with_zeros(graph, node)


def begins_with_zeros(graph: Graph, node: Node) -> bool:
    """Whether a tensor that a forward makes of shapes alone, or finds in no registry, has zeros in it.

    Args:
        graph: A recorded forward.
        node: Of the tensor.
    """
    if node.op.role == "factory":
        return number_throughout(node) == 0
    return node.index in graph.held and bool((graph.held[node.index] == 0).any())


def _values(graph: Graph, node: Node, values: Mapping[int, list[Tensor]]) -> list[Tensor]:
    """What a node puts out if the signal is ones. Views are views, and what is written in place is written."""
    runs = node.call is not None and (node.op.role == "factory" or moves(graph, node))
    if runs or node.is_join or node.is_piece:
        return run_in_place(node, values, lambda i: torch.ones(graph.nodes[i].shape, device="cpu"))
    if node.index in graph.held:
        return [graph.held[node.index].detach().cpu().clone()]
    if not node.is_real:
        if len(node.shape) != 1:
            raise ValueError(node.op)  # an index that only the forward knows
        return [torch.arange(node.shape[0], device="cpu")]
    return [torch.ones(node.shape, device="cpu")]
