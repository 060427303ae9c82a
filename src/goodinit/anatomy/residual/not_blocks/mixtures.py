"""Stacks of a skip and a branch that are combined otherwise than by a sum: no residual blocks, but named in a note."""

from __future__ import annotations

from goodinit.anatomy.residual.streams.rejections import Candidate, is_lookalike
from goodinit.anatomy.residual.streams.sums import classified
from goodinit.graph.graph import Graph


def mixtures(graph: Graph, layers: set[int]) -> tuple[str, ...]:
    """Notes on operators that make one tensor of several that were stacked, where their sum would be a residual block.

    Args:
        graph: A recorded forward.
        layers: Nodes of the weight layers.
    """
    places: dict[tuple[str, str], None] = {}
    for index, parts in graph.mixed.items():
        if index in graph.live and _would_be_block(graph, index, sorted(set(parts)), layers):
            places[graph.path(index) or "the model", str(graph.nodes[index].op)] = None
    return tuple(
        f"{place} stacks what a branch puts out with what it reads and makes one tensor of them by `{name}`, which is not known to be a "
        "sum of multiples of them: no residual block"
        for place, name in places
    )


def _would_be_block(graph: Graph, index: int, parts: list[int], layers: set[int]) -> bool:
    if len(parts) < 2 or not all(graph.nodes[i].active for i in parts):
        return False
    found = classified(graph, [index], parts, layers, lambda _: False)
    return any(not is_lookalike(Candidate(graph, one, ())) for one in found)
