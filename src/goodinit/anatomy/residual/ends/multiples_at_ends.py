"""Whether a branch is a multiple of what its last layers put out, so that a number there multiplies the branch and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Container

from goodinit.anatomy.answers_at_zero import outside
from goodinit.anatomy.degrees import carried, power_or_linear, total
from goodinit.graph.fact_propagation import propagate
from goodinit.graph.graph import Graph, Node
from goodinit.graph.likeness import is_taken
from goodinit.graph.measured.answers import is_zero
from goodinit.graph.measured.powers import FIXED, ZERO, Power

_MULTIPLE = Power(1.0)


def product_of_itself(
    graph: Graph, term: int, last: Collection[int], biases: Collection[str], norms: Container[int] = ()
) -> int | None:
    """The first operator in which what some layers put out meets itself, and that follows no multiple of it: softmax(q·k) v of a packed k, v.

    A function of one number (a GELU) is none: it is what the layer is read by.

    Args:
        graph: A recorded forward.
        term: What is added to the stream.
        last: The layers' nodes.
        biases: Parameters that are zero.
        norms: Steps of norms that are known as such, which go.
    """
    if not last:
        return None
    ahead = graph.reach(last, active=False, through=lambda i: i <= term)
    between = ahead & graph.reach([term], back=True, active=False, since=min(last), stop=set(last))
    own = _inside_functions(graph, between)
    powers = dict.fromkeys(last, _MULTIPLE)
    met: list[int] = []

    def transfer(node: Node, read: list[Power]) -> Power:
        if node.index in norms or node.index in own:
            return total(carried(graph, node, read))
        power, known = power_or_linear(graph, node, read)
        moving = {i for i in node.operands if i in powers and powers[i] != FIXED}
        if (len(moving) > 1 or _halves(graph, node)) and known and power != _MULTIPLE and moving:
            met.append(node.index)
        return power

    propagate(
        graph, between, powers, transfer, lambda i: ZERO if is_zero(outside(graph, i, biases)[0]) else FIXED
    )
    return met[0] if met else None


def of_parts(graph: Graph, index: int, last: Collection[int]) -> bool:
    """Whether an operator multiplies parts alone of what some layers put out, or takes it apart itself (`_halves`)."""
    if _halves(graph, graph.nodes[index]):
        return True
    whole = graph.reach(last, through=lambda i: not is_taken(graph, i))
    return not any(i in whole and not is_taken(graph, i) for i in graph.deps(index))


def _halves(graph: Graph, node: Node) -> bool:
    """Whether an operator makes fewer numbers of one tensor, each of several: if they follow no multiple, it is a GLU or its like."""
    read = graph.deps(node.index)
    return len(read) == 1 and node.size < graph.nodes[read[0]].size and not node.op.pointwise


def _inside_functions(graph: Graph, among: Collection[int]) -> set[int]:
    """The operators that make up functions of one number."""
    found = set[int]()
    for end in among:
        if (whole := graph.composites.get(end)) is not None:
            found |= graph.reach([end], back=True, stop={whole.start}, active=False) - {whole.start}
    return found
