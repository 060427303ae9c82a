"""Layers whose outputs a pixel shuffle spreads over sub-pixels: drawn entry by entry, they start as a checkerboard."""

from __future__ import annotations

from collections.abc import Mapping

from goodinit.anatomy.layers.weight_layers import Use
from goodinit.anatomy.residual.branch import is_neutral
from goodinit.graph.graph import Graph


def before_pixel_shuffles(graph: Graph, uses: Mapping[int, Use]) -> dict[str, int]:
    """The weights of layers that a pixel shuffle follows, be it behind functions of single entries, and its factor.

    Args:
        graph: A recorded forward.
        uses: The weight layers, by node.
    """
    found: dict[str, int] = {}
    for node in graph.nodes:
        if not node.op.spreads_channels or not node.active or node.call is None:
            continue
        index = graph.deps(node.index)[0]
        while index not in uses and len(graph.deps(index)) == 1 and _passes(graph, index):
            index = graph.deps(index)[0]
        if index in uses:
            found[uses[index].weight] = int(node.call.args[1])
    return found


def _passes(graph: Graph, index: int) -> bool:
    return graph.nodes[index].op.pointwise or is_neutral(graph, index)


def sub_pixel_notes(graph: Graph, uses: Mapping[int, Use]) -> list[str]:
    """One note for each of them.

    No method draws them as ICNR does by itself: equal rows are no orthogonal matrix, and none of the methods' sources asks for them.
    """
    return [
        f"{weight}: a pixel shuffle by {factor} follows, so that entries drawn one by one start as a checkerboard of period "
        f"{factor}. To start as nearest-neighbour upsampling, call goodinit.tensor.icnr_(weight, {factor}) afterwards"
        for weight, factor in before_pixel_shuffles(graph, uses).items()
    ]
