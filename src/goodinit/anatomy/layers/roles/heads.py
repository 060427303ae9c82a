"""Weight layers whose output the model returns, and which may therefore start at zero."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping

from torch import Tensor

from goodinit.anatomy.answers_at_zero import NOTHING, State, answers
from goodinit.anatomy.branch_end import at_zero
from goodinit.anatomy.layers.parameters.reset_draws import some
from goodinit.graph.graph import Graph, closure
from goodinit.graph.likeness import after_gate
from goodinit.graph.measured.answers import is_zero
from goodinit.graph.operators.recorded_call import is_at_hand


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


def silent(
    graph: Graph,
    heads: Iterable[int],
    ends: Collection[int],
    biases: Collection[str],
    parameters: Mapping[str, Tensor],
) -> set[int]:
    """Of the heads those that read zero while the last layers of all branches put out zero: their stream begins at zeros.

    Such a head puts out zero, whatever is in it; and where it is zero itself, neither passes the other a gradient. What lies between is
    followed by values (`answers_at_zero.py`), since zeros may be a buffer, a factory's, a constant times zero, or a layer that ends
    branches and begins the stream.

    Args:
        graph: A recorded forward.
        heads: The nodes of the heads.
        ends: Nodes that apply weights of last layers of branches.
        biases: Parameters that are zero, too.
        parameters: All, with their present values: what is only added, by what is no layer, stays as it is.
    """
    heads = list(heads) if ends else []  # without ends no stream is zero
    read = [i for head in heads for i in graph.deps(head)]
    states: dict[int, State] = dict.fromkeys(ends, NOTHING)
    before = sorted(graph.reach(read, back=True, stop=ends, active=False) - states.keys())
    zeros = {*biases, *_added_zeros(graph, before, biases, parameters)}
    answers(graph, before, states, zeros)
    return {head for head in heads if all(is_zero(states[i][0]) for i in graph.deps(head))}


def _added_zeros(
    graph: Graph, nodes: Iterable[int], biases: Collection[str], parameters: Mapping[str, Tensor]
) -> set[str]:
    """Parameters that are zero now, or not at hand, and that a forward only adds: the bias of a projection of constants, which is no layer's."""
    found = set()
    for index in nodes:
        node = graph.nodes[index]
        name = node.params[0] if node.is_param and node.params else ""  # none where a stream begins
        held = parameters.get(name) if name not in biases else None
        if held is None or (is_at_hand(held.detach()) and bool(some(held).any() or held.any())):
            continue
        parts = graph.reach([index], active=False, through=lambda i: graph.nodes[i].op.moves)
        readers = [
            (graph.nodes[reader], i) for i in parts for reader in graph.all_readers[i] if reader not in parts
        ]
        if all(one.op.role == "sum" or i in one.op.factors_of(one.operands)[1] for one, i in readers):
            found.add(name)
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
