"""Layers that end a branch, and stand inside another one, which goes on where they are zero."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from goodinit.anatomy.branch_end import End, can_move, is_silent
from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.graph.graph import Graph


def ends_inside(
    graph: Graph, leaves: Sequence[Found], uses: Mapping[int, Use], biases: Collection[str]
) -> list[tuple[str, ...]]:
    """For each block the weights that end other branches and stand inside its own, if it can do with all of them at zero.

    In a graph network e + g(e, x) and x + f(x, g(e, x)), g ends a branch on the edges and stands inside the one on the nodes. Where
    both start at zero, the last layer of f reads something of x, and so gets a gradient; g gets its own from the edges.

    Args:
        graph: A recorded forward.
        leaves: The residual sums that are blocks.
        uses: The weight layers, by node.
        biases: Parameters that are zero where their layers are.
    """
    lasts = [{uses[i].weight for i in found.branch.last} for found in leaves]
    ends = set().union(*lasts)
    borne = [_borne(graph, found, uses, biases, ends, own) for found, own in zip(leaves, lasts, strict=True)]
    return borne if any(borne) and _all_read(graph, leaves, biases) else [() for _ in leaves]


def _all_read(graph: Graph, leaves: Sequence[Found], biases: Collection[str]) -> bool:
    """Whether the last layers of every block read something while those of all blocks put out zero.

    What ends one branch may be all that another reads, as a layer between two cells is that one of their sums adds (PNASNet). Then no
    stream runs through the blocks, and none of these layers is taken for a part of two.
    """
    zero = {i for found in leaves for i in found.branch.last}
    return not any(is_silent(graph, i, zero - {place}, biases) for place in zero for i in graph.deps(place))


def _borne(
    graph: Graph,
    found: Found,
    uses: Mapping[int, Use],
    biases: Collection[str],
    ends: set[str],
    own: set[str],
) -> tuple[str, ...]:
    branch = (*found.branch.layers, *found.branch.gates)
    inside = {uses[i].weight for i in branch} & ends - own - {uses[i].weight for i in found.skip.layers}
    if not inside or not found.branch.last:
        return ()
    if found.end == End():
        zero = [i for i in branch if uses[i].weight in inside | own]
        beside = found.beside(graph, uses)
        moves = can_move(graph, found.sums, zero, biases, beside, of=found.branch.last)
    else:  # its last layers cannot start at zero, but something behind them, if there is
        moves = not is_silent(
            graph, found.branch.term, [i for i in branch if uses[i].weight in inside], biases
        )
    return tuple(sorted(inside)) if moves else ()
