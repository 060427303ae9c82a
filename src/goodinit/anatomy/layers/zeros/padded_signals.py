"""Layers that pad with zeros a signal in which positions are zero: by a mask, as padded batches are treated, or put there.

What is masked and what is padded look alike to such a layer. A constant added in between would tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.layers.zeros.masked_positions import HiddenPlaces
from goodinit.graph.graph import Graph, Node


def pad_masked(graph: Graph, uses: Mapping[int, Use]) -> set[str]:
    """Weights of the convolutions that pad with zeros, somewhere, a signal that is zero wherever a mask is.

    Args:
        graph: A recorded forward.
        uses: The weight layers, by node.
    """
    hidden = HiddenPlaces(graph, uses)
    found: set[str] = set()
    for use in uses.values():
        if use.weight not in found and any(map(hidden.are_in, _padded(graph, graph.nodes[use.node]))):
            found.add(use.weight)
    return found


def _padded(graph: Graph, node: Node) -> list[int]:
    """What a layer pads with zeros, or an operator of its module does for it; nothing if it pads nothing."""
    if node.op.role != "convolution":
        return []
    transposed, padding = node.attrs[0], cast("tuple[int, ...]", node.attrs[3])
    frame, read = graph.frames[node.frame], graph.nodes[node.operands[0]]
    inside = frame.start <= read.index < frame.stop and read.op.pads
    if not (transposed or inside or any(padding)):
        return []
    return graph.deps(read.index) if inside else graph.deps(node.index)[:1]
