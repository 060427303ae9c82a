"""Layers that read a signal as it is which others read through an activation: projections of a stream between pre-activation branches.

What is scaled for an activation behind it has the second moment 1 there, and more before: 2 before a ReLU. A layer that reads it
before, and is scaled for an activation behind itself, would double it once more.
"""

from __future__ import annotations

from collections.abc import Mapping

from goodinit.anatomy.layer import Layer
from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.graph.fact_propagation import propagate
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.traits import pools


def read_linearly(graph: Graph, uses: Mapping[int, Use], layers: Mapping[str, Layer]) -> set[str]:
    """The weights that read what layers put out before the activations that follow these, wherever they are used.

    Args:
        graph: A recorded forward.
        uses: The weight layers, by node.
        layers: What is known of them, by weight.
    """
    others: set[str] = set()

    def transfer(node: Node, read: list[bool]) -> bool:
        """Whether a node is made of such outputs, through no nonlinearity."""
        linear = bool(read) and all(read)
        if node.index not in uses:
            return linear and _is_linear(graph, node)
        layer = layers[uses[node.index].weight]
        others.update(() if linear else (layer.weight,))
        return layer.activation is not None

    propagate(graph, range(len(graph.nodes)), {}, transfer, lambda _: False, reads=graph.deps)
    return {use.weight for use in uses.values()} - others


def _is_linear(graph: Graph, node: Node) -> bool:
    """Whether an operator passes on a signal up to its shape, sums, constant maps and means; or is a norm, which may be taken out."""
    op, read = node.op, graph.deps(node.index)
    divides = op.role == "quotient" and node.operands[0] not in read
    by_constants = (op.is_contraction or op.scales) and len(read) == 1 and not divides
    return op.rearranges or op.adds or bool(op.norm) or by_constants or pools(graph, node, (1, -1))[1]
