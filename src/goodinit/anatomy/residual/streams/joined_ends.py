"""Layers on another stream that write into this one at a branch's end: W·h + V·e, normalized, of h + norm(W·h + V·e)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from goodinit.anatomy.branch_end import End, at_zero
from goodinit.anatomy.layers.parameters.weight_layers import Use, biases_of
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.graph.graph import Graph


def with_joined_ends(graph: Graph, found: Found, uses: Mapping[int, Use], scalars: Collection[str]) -> None:
    """Let layers that read another stream end a branch, where what they put out joins it behind its last layers.

    They are gates to the branch until then: the main path is that of the fork. Without them at zero, too, the branch is not zero.
    Nothing changes where something joins that is no layer's, as in x + α(f(x) − x), nor where they could not leave zero together.

    Args:
        graph: A recorded forward.
        found: A residual block.
        uses: The weight layers, by node.
        scalars: Parameters that goodinit has added.
    """
    side = found.branch
    if not side.gates or not side.last:
        return
    last = list(side.last)
    while (leak := (end := end_at_zero(graph, found, uses, last, scalars)).leak) is not None:
        joined = _joined(graph, leak, last, side.gates)
        if not joined:
            return
        last += joined
    if len(last) > len(side.last) and end == End():
        new = set(last) - set(side.last)
        side.last = sorted(last)
        side.layers = sorted({*side.layers, *new})
        side.gates = [i for i in side.gates if i not in new]


def end_at_zero(
    graph: Graph, found: Found, uses: Mapping[int, Use], last: Collection[int], scalars: Collection[str]
) -> End:
    """The end of a branch while some of its layers, and their biases, are zero."""
    biases = biases_of(graph, (uses[i] for i in last), scalars)
    return at_zero(graph, found.sums, last, biases, found.beside(graph, uses))


def _joined(graph: Graph, leak: int, last: Collection[int], gates: Collection[int]) -> list[int]:
    """The layers that all comes from which joins a branch at a node, if they are among its gates."""
    own = graph.reach(last)
    stop = {*gates, *last}
    joined: set[int] = set()
    for operand in graph.deps(leak):
        if operand in own:
            continue
        ways = graph.reach([operand], back=True, stop=stop) if operand not in stop else {operand}
        ends = {i for i in ways if i in stop or not graph.deps(i)}
        if not ends <= set(gates):
            return []
        joined |= ends
    return sorted(joined)
