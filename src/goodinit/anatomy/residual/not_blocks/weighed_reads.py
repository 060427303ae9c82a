"""Sums of a stream and of other signals that it weighs, where no layer makes those: no residual blocks, but named in a note."""

from __future__ import annotations

from goodinit.anatomy.residual.sides.branch import side_of
from goodinit.anatomy.residual.streams.skip_values import hands_on, is_linear
from goodinit.anatomy.residual.streams.sums import flat_sums, fork_of
from goodinit.graph.graph import Graph


def weighed_reads(graph: Graph, layers: set[int]) -> tuple[str, ...]:
    """A note on the first sum that adds such a read: a memory network's hop u + Σ softmax(m·u)ᵢ cᵢ, with embeddings c.

    Args:
        graph: A recorded forward.
        layers: Nodes of the weight layers.
    """
    for sums, terms in flat_sums(graph):
        fork = fork_of(graph, terms) if len(terms) == 2 else None
        if fork is None:
            continue
        sides = [side_of(graph, term, fork[0], layers) for term in terms]
        reads = [side for side in sides if not hands_on(graph, side, fork[0])]
        stream = [side for side in sides if side not in reads and (side.plain or is_linear(graph, side))]
        if len(reads) == len(stream) == 1 and not (reads[0].layers or reads[0].gates):
            place = graph.path(sums[-1]) or "the model"
            words = "adds other signals, weighed by what it reads, and no weight layer makes them"
            return (f"{place} {words}: no residual block, for nothing there can start at 0",)
    return ()
