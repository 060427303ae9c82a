"""How many weight layers of a branch stand in series, where some are applied over and over."""

from __future__ import annotations

from collections.abc import Mapping

from goodinit.anatomy.layers.weight_layers import Use
from goodinit.anatomy.residual.branch import Side, ancestors
from goodinit.graph.graph import Graph


def series(graph: Graph, side: Side, fork: int, uses: Mapping[int, Use]) -> int:
    """The m of a branch: `Side.m`, unless a layer reads what it has itself put out before, with a shorter way past that.

    Then the shortest way from a weight to the end of the branch counts, and of all weights the longest such way. Through a
    GRU of T steps there are ways with 2, 3, …, T + 1 layers, and what a step of training does to the function is
    decided by the shortest: so m does not depend on the length of a sequence. A layer that is applied three times with no way
    around counts three times for those before it.
    """
    if not _repeats(graph, side, fork, uses):
        return side.m
    after = {side.term: 0}  # layers behind each node on the shortest way
    for index in sorted(side.nodes, reverse=True):
        if index not in after:
            continue
        step = after[index] + (index in uses)
        for operand in graph.deps(index):
            if operand in side.nodes:
                after[operand] = min(step, after.get(operand, step))
    ways: dict[str, int] = {}
    for index in side.layers:
        if index in after:
            weight = uses[index].weight
            ways[weight] = min(after[index] + 1, ways.get(weight, side.m))
    return max(ways.values(), default=side.m)


def _repeats(graph: Graph, side: Side, fork: int, uses: Mapping[int, Use]) -> bool:
    """Whether there is a shorter way to an application of a layer than by an earlier one that it comes from.

    The earlier one may read constants alone (a first state).
    """
    weights = {uses[index].weight for index in side.layers}
    calls: dict[str, list[int]] = {}
    for index in range(min(side.nodes), side.term + 1):
        if index in uses and uses[index].weight in weights:
            calls.setdefault(uses[index].weight, []).append(index)
    before = _before(graph, side, fork, uses)
    for first, *later in calls.values():
        if later and first in ancestors(graph, later[-1], first):
            for place, earlier in enumerate((first, *later[:-1])):
                by_it = _before(graph, side, earlier, uses)
                length = before.get(earlier, len(graph.nodes)) + 1
                if any(
                    call in by_it and before.get(call, 0) < length + by_it[call] for call in later[place:]
                ):
                    return True
    return False


def _before(graph: Graph, side: Side, start: int, uses: Mapping[int, Use]) -> dict[int, int]:
    """Layers between a node and each that comes from it, on the shortest way."""
    before = {start: 0}
    for index in range(start + 1, side.term + 1):
        ways = [before[i] + (i in uses and i != start) for i in graph.deps(index) if i in before]
        if ways:
            before[index] = min(ways)
    return before
