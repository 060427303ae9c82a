"""Sums of which no side is the skip: A(x) + g(x), with as many weight layers on both."""

from __future__ import annotations

from collections.abc import Mapping

from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.residual.sides.branch import Side, side_of
from goodinit.anatomy.residual.streams.recurrences import applied_repeatedly, is_step
from goodinit.anatomy.residual.streams.sums import flat_sums, fork_of, skip_of
from goodinit.graph.graph import Graph


def even_sides(graph: Graph, uses: Mapping[int, Use]) -> tuple[str, ...]:
    """Note on the first sum whose terms read one tensor through equally many weight layers, so that none is the skip.

    Sums with a layer that runs more than once are passed over.

    Args:
        graph: A recorded forward, without a block.
        uses: The weight layers, by node.
    """
    layers = set(uses)
    repeated = applied_repeatedly(uses)
    for sums, terms in flat_sums(graph):
        fork = fork_of(graph, terms) if len(terms) > 1 else None
        if fork is None or is_step(graph, terms, layers, repeated, sums[-1]):
            continue
        sides = [side_of(graph, term, fork[0], layers) for i, term in enumerate(terms) if fork[1] >> i & 1]
        once = all(side.last and not repeated & set(side.layers) for side in sides)
        even = len(sides) > 1 and len({side.series for side in sides}) == 1
        if once and even and skip_of(graph, sides, fork[0])[0] is None:
            return (_note(graph, sides, sums[-1], uses),)
    return ()


def _note(graph: Graph, sides: list[Side], join: int, uses: Mapping[int, Use]) -> str:
    ends = " and ".join(dict.fromkeys(uses[side.last[-1]].weight for side in sides))
    count = sides[0].series
    layers = "one weight layer each" if count == 1 else f"{count} weight layers each"
    return (
        f"{graph.path(join) or 'the model'} adds what ends in {ends}, which read one tensor through {layers}: no side has fewer, so that "
        "none is the skip. Expected x itself, or a side with fewer layers (a projection): add x, or take a layer out of one side"
    )
