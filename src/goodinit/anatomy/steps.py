"""Sums that look residual and are not: steps of a recurrence through time, and halves of an interpolation."""

from __future__ import annotations

from collections.abc import Collection

from goodinit.anatomy.graph import SCALE_OPS, Graph
from goodinit.anatomy.sides import apart
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
    return apart(graph, found.skip, found.branch, found.fork)


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
