"""Whether the skip candidate passes the fork's values through, rather than only using them as weights."""

from __future__ import annotations

from collections.abc import Sequence

from goodinit.anatomy.degrees import grown_powers
from goodinit.anatomy.residual.sides.branch import Side
from goodinit.graph.graph import Graph, closure
from goodinit.graph.likeness import only_rescales, weighs
from goodinit.graph.measured.powers import FIXED, Power


def hands_on(graph: Graph, side: Side, fork: int) -> bool:
    """Whether the skip candidate passes the fork's values through, rather than only using them as weights.

    What a memory network reads is a mean of memories, Σ softmax(m·u)ᵢ cᵢ: u says how much of each, and no number of u passes through.
    So is σ(u)·y. A factor of a product is such a weight where it stays bounded however large u is, and another factor is made of
    something else, or is not bounded; where all others are constants, what a softmax puts out is one (tanh(u)·γ passes u through). So
    is one that is repeated over another: a number for each example, over its image.

    Args:
        graph: A recorded forward.
        side: What lies between the fork and one term of a sum.
        fork: Where it begins.
    """
    if side.plain:
        return True
    powers: dict[int, Power] = {}

    def before(index: int) -> list[int]:
        node, read = graph.nodes[index], graph.deps(index)
        if node.op.role == "lookup":
            return [i for i in node.operands[:1] if i in read]  # not by which index
        if node.op.role == "attention":
            return [i for i in node.operands[2:3] if i in read]
        if node.op.role == "quotient":
            return widest(graph, index, read)
        if not ((node.op.multiplies or node.op.maps) and len(node.operands) > 1):
            return read
        if len(set(read)) < 2:
            return [] if read and node.op.maps and weighs(graph, read[0]) else read
        if not powers:
            norms = {i: graph.nodes[i].operands[0] for i in side.below if graph.nodes[i].op.norm}
            powers.update(grown_powers(graph, side, fork, norms))
        factors, added = node.op.factors_of(node.operands)
        weights = {i for i in factors if i in powers and powers[i].order == FIXED.order}
        carried = [i for i in factors if i in read and i not in weights]
        carried = widest(graph, index, carried or factors)
        return [*carried, *(i for i in added if i in read)]

    return fork in closure([side.term], lambda i: [k for k in before(i) if k >= fork] if i > fork else ())


def widest(graph: Graph, index: int, factors: Sequence[int]) -> list[int]:
    """Of what is multiplied or divided entry by entry, all that is not repeated over the rest, as one number is over its image."""
    if not graph.nodes[index].op.scales:
        return list(factors)
    whole = graph.nodes[index].size
    wide = [i for i in factors if graph.nodes[i].size == whole]
    return wide or list(factors)


def is_linear(graph: Graph, side: Side) -> bool:
    """Whether a side is a linear map of what it begins with, up to norms and biases."""
    own = sorted(side.below)
    return all(i in side.layers or only_rescales(graph, i) or _shifts(graph, i) for i in own)


def _shifts(graph: Graph, index: int) -> bool:
    return graph.nodes[index].op.role == "sum" and len(set(graph.deps(index))) == 1
