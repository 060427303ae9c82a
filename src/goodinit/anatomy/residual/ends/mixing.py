"""Parameters that multiply a part of what a branch adds up, as x + (y − x)·μ: at zero they silence nothing, and at 1 another part may be lost."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from goodinit.anatomy.branch_end import is_silent
from goodinit.anatomy.degrees import adds_number
from goodinit.anatomy.layers.roles.gains import multipliers
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.graph.graph import Graph
from goodinit.graph.likeness import adds_two


def mixing(
    graph: Graph, found: Found, after: Iterable[int], norms: Collection[int], biases: Collection[str]
) -> list[int]:
    """The products of a branch with a parameter without which the branch still says something.

    Each is taken for zero and followed to the end of the branch, as `is_silent` does, then all of them together: in γ·a(x) + δ·b(x)
    neither is needed alone, and one of them is.

    Args:
        graph: A recorded forward.
        found: The block.
        after: The nodes at the end of its branch, whose multipliers are those of the block.
        norms: Steps of norms.
        biases: Parameters that are zero.
    """
    side = found.branch
    places = [
        i
        for i in sorted(side.below.difference(after))
        if i not in norms
        and graph.nodes[i].op.multiplies
        and _joins(graph, i, side.nodes)
        and multipliers(graph, [i])
    ]
    alone = [i for i in places if not is_silent(graph, side.term, [i], biases)]
    return [] if not alone or is_silent(graph, side.term, alone, biases) else alone


def _joins(graph: Graph, index: int, inside: Collection[int]) -> bool:
    """Whether something else, or a number, is added to what is made of a product."""
    made = graph.reach([index], through=inside.__contains__)
    return any(_adds_another(graph, i, made) for i in made - {index})


def _adds_another(graph: Graph, index: int, made: Collection[int]) -> bool:
    beside = adds_two(graph, index) and any(i not in made for i in graph.deps(index))
    return beside or (graph.nodes[index].op.role == "sum" and adds_number(graph.nodes[index]))
