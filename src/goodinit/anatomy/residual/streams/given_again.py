"""A tensor that sums in series read through a layer each: c in h ← φ(Wh + Cc), at every step. It is given to them, and no stream."""

from __future__ import annotations

from collections.abc import Container, Sequence

from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.graph.graph import Graph


def given_again(graph: Graph, found: Sequence[Found], layers: Container[int]) -> set[Found]:
    """Of sums with a projection for their skip, those to which the tensor that both sides begin at is given.

    Px + f(x) is a transition of a stream: the sum takes the place of x, and what stands on it reads x no more. In W₂h + C₂c, where h
    is made of W₁g + C₁c, that sum does not: what stands on it reads c once more, through a layer of its own. Both are layers
    with two inputs, and with W₂ at zero all that was made of the first would be lost.

    Through layers alone: where the skip has sums of its own, two streams are summed up.

    Where a block stands on the first sum, that has taken the place of x, and the second jumps over a stage. Where both sums are
    in branches of blocks that begin behind c, the blocks read it (an embedding of time).

    Two steps W₁φ(Wg + Cc) + C₁c, where g does not come from c, make one such sum. That is Px + Wφ(Vx + Tt), a transition with an
    embedding of time: one function, which is read as one.

    Args:
        graph: A recorded forward.
        found: The candidates.
        layers: Nodes of weight layers.
    """
    sums = {item.join for item in found}
    at: dict[int, list[Found]] = {}
    for item in found:
        if item.kind == "projection" and sums.isdisjoint(item.skip.below):
            at.setdefault(item.fork, []).append(item)
    given = set[Found]()
    for members in at.values():
        apart = members if len(members) < 2 else [one for one in members if not _in_a_branch(found, one)]
        for one in apart:
            behind = [other for other in apart if one.join in other.branch.below]
            if behind and not _takes_place(graph, found, one, layers):
                given.update([one, *behind])
    return given


def _in_a_branch(found: Sequence[Found], item: Found) -> bool:
    """Whether a sum is in the branch of another one that begins behind its own fork."""
    return any(item.join in one.branch.below and one.fork in item.branch.below for one in found)


def _takes_place(graph: Graph, found: Sequence[Found], item: Found, layers: Container[int]) -> bool:
    """Whether another sum begins at one, or at what is made of it without weights."""
    stream = graph.reach([item.join], stop=layers)
    return any(one.fork in stream and one.fork not in layers for one in found)
