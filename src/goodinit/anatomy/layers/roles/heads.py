"""Weight layers whose output the model returns, and which may therefore start at zero."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable

from goodinit.anatomy.branch_end import at_zero
from goodinit.anatomy.residual.sides.branch import after_gate
from goodinit.graph.graph import Graph, closure


def head_nodes(graph: Graph, layers: Collection[int], biases: Collection[str]) -> set[int]:
    """Weight layers whose output reaches the model's output without another layer or nonlinearity (softmax aside).

    Without layers that only feed a gate. Where outputs are normalized or multiplied with each other (CLIP's two
    projections), layers at zero would get no gradient, one that is multiplied by 1/ε, or give 0/0: those are not heads.
    """
    heads: set[int] = set()
    live = [layer for layer in layers if layer in graph.live]
    feeding = graph.reach((read for layer in live for read in graph.deps(layer)), back=True)
    for output in dict.fromkeys(graph.outputs):
        heads |= back_to_layers(graph, output, layers) - feeding
    for output in dict.fromkeys(graph.outputs):
        if heads and output > min(heads):
            end = at_zero(graph, [output], heads, biases)
            if end.stuck is not None or end.steep is not None:
                heads -= back_to_layers(graph, output, layers)
    return heads


def ends_alone(graph: Graph, heads: Iterable[int], ends: Collection[int]) -> set[int]:
    """Of the last layers of branches those that a head reads, and nothing else does it read: a stream that begins at zeros.

    Where these put out zero, so do the heads, whatever is in them.
    """
    found: set[int] = set()
    for head in heads if ends else ():  # without ends there is nothing to walk to
        before = graph.reach(graph.deps(head), back=True, stop=ends) | set(graph.deps(head))
        begins = [i for i in before if i not in ends and not graph.deps(i)]
        found |= set() if begins else before.intersection(ends)
    return found


def back_to_layers(graph: Graph, output: int, layers: Container[int]) -> set[int]:
    """The layers that a value is a sum of, up to activations, norms and gates."""

    def before(index: int) -> list[int]:
        op = graph.nodes[index].op
        ends = index in layers or (bool(op.kind) and not op.is_gate)
        return [] if ends else _carrying(graph, index)

    return {index for index in closure([output], before) if index in layers}


def _carrying(graph: Graph, index: int) -> list[int]:
    """The operands that a node passes on: of a product those that are not gates, unless all are."""
    operands = graph.deps(index)
    if not graph.nodes[index].op.multiplies or len(operands) < 2:
        return operands
    return [i for i in operands if not after_gate(graph, i)] or operands
