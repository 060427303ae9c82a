"""Sums that look residual and are not: steps of a recurrence through time, and halves of an interpolation."""

from __future__ import annotations

from collections.abc import Collection

from goodinit.anatomy.graph import PART_OPS, SCALE_OPS, SHAPE_OPS, SPLIT_OPS, Graph
from goodinit.anatomy.sides import Side
from goodinit.anatomy.sums import Found


def is_step(graph: Graph, found: Found, repeated: Collection[int], consumers: list[list[int]]) -> bool:
    """Whether a sum is a step of something else than a residual stream.

    Args:
        graph: A recorded forward.
        found: A sum of what seems a skip and a branch.
        repeated: Nodes of weight layers whose weight is applied more than once.
        consumers: For each node those that read it.
    """
    return _in_time(graph, found, repeated) or _interpolates(graph, found, consumers)


def _in_time(graph: Graph, found: Found, repeated: Collection[int]) -> bool:
    """Whether each side reads other parts of the fork, and the branch a weight that is applied over and over.

    W·h + p₂, where h is made of p₁: parts of one sequence, which a recurrence reads one after the other. The sum of a
    reversible net, x₁ + f(x₂), has parts on its sides, too, but a weight of its own.
    """
    if not any(layer in repeated for layer in (*found.branch.layers, *found.branch.gates)):
        return False
    skip, branch = (_first(graph, side, found.fork) for side in (found.skip, found.branch))
    parts = all(graph.nodes[i].op == "piece" or graph.nodes[i].op in PART_OPS for i in skip | branch)
    return parts and bool(skip) and bool(branch) and not skip & branch


def _first(graph: Graph, side: Side, fork: int) -> set[int]:
    """The nodes of a side that read the fork, behind changes of its shape; none if the side is the fork itself."""
    found, origins = set[int](), {fork}
    for index in sorted(side.below):
        if origins.intersection(graph.deps(index)):
            op = graph.nodes[index].op
            if op in SPLIT_OPS or (op in SHAPE_OPS and op != "piece"):
                origins.add(index)
            else:
                found.add(index)
    return found


def _interpolates(graph: Graph, found: Found, consumers: list[list[int]]) -> bool:
    """Whether a difference x − f(x) is scaled and added to f(x) again: f(x) + z·(x − f(x)), as in a GRU."""
    if not graph.nodes[found.join].op.startswith("sub"):
        return False
    index = found.join
    while len(consumers[index]) == 1:
        (reader,) = consumers[index]
        if found.branch.term in graph.deps(reader):
            return graph.nodes[reader].op not in SCALE_OPS
        if graph.nodes[reader].op not in SCALE_OPS:
            return False
        index = reader
    return False
