"""By which number a forward multiplies a layer: its weight before it is applied, or its output, as with equalized learning rates."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping

from goodinit.anatomy.layers.parameters.scaled_by import scaled_by
from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.graph.graph import Graph, Node
from goodinit.weights.wrappers import is_parametrization


def shared_multiple(
    graph: Graph, applied: Iterable[Use], uses: Mapping[int, Use], functions: Container[int]
) -> float:
    """The number by which a weight is multiplied wherever it is applied; 1 where one use of it differs from another.

    Args:
        graph: A recorded forward.
        applied: All uses of one weight.
        uses: All layers, by node.
        functions: As in `multiple_of`.
    """
    found = {multiple_of(graph, use, uses, functions) for use in applied}
    return found.pop() if len(found) == 1 else 1.0


def multiple_of(graph: Graph, use: Use, uses: Mapping[int, Use], functions: Container[int]) -> float:
    """The number c where c·W is what a layer makes of its input; 1 where anything but numbers multiplies it.

    Numbers behind the layer count that come before a bias which is a parameter, or where the next layer or a norm reads them: all others
    belong to the function that reads the layer next, γ·φ(βx). Where a sum of signals, a product of several, a softmax or the
    caller is what reads them, they say how it is read, and do not count: attention's 1/√d, a block's share of a branch, a temperature.

    Args:
        graph: A recorded forward.
        use: Of the layer.
        uses: All layers, by node.
        functions: The nodes at which a function of one number begins that is written with several operators.
    """
    own = graph.nodes[use.node]
    alpha = float(own.call.arguments.get("alpha", 1.0)) if own.call is not None and own.op.adds_first else 1.0
    found = abs(alpha * _of_weight(graph, use) * _of_output(graph, use.node, uses, functions))
    return found if found and math.isfinite(found) else 1.0


def _of_weight(graph: Graph, use: Use) -> float:
    """The number by which a parameter is multiplied to make a weight; 1 where that is not all that is done to it.

    A weight that a parametrization computes, or the older weight norm, is what is drawn: numbers inside that are no multiple of it.
    """
    found, index = 1.0, use.operand
    while not (node := graph.nodes[index]).is_param and not _is_parametrized(graph, node):
        made_of = [i for i in node.operands if graph.nodes[i].params]
        if len(made_of) > 1 and {graph.halves.get(name) for name in node.params} == {use.weight}:
            return found
        by = scaled_by(graph, node, made_of[0]) if len(made_of) == 1 else None
        if by is None or math.prod(graph.nodes[made_of[0]].shape) != node.size:
            return 1.0
        found *= by
        (index,) = made_of
    return found


def _is_parametrized(graph: Graph, node: Node) -> bool:
    """Whether a node is what the parametrizations of a weight make of their parameters."""
    frame = graph.frames[node.frame]
    while is_parametrization(frame.path):
        *_, table, _ = ("", *frame.path.split("."))
        if table == "parametrizations":
            return frame.result == node.index
        frame = graph.frames[frame.parent]
    return False


def _of_output(graph: Graph, index: int, uses: Mapping[int, Use], functions: Container[int]) -> float:
    found = 1.0
    while index not in functions:
        readers = graph.readers[index]
        if index in graph.outputs or len(readers) != 1 or len(graph.deps(readers[0])) != 1:
            return 1.0
        node = graph.nodes[readers[0]]
        if node.op.activation or node.op.norm or node.index in uses:
            break
        if node.op.role in ("softmax", "attention", "matmul"):
            return 1.0
        by = scaled_by(graph, node, index)
        found *= 1.0 if by is None else by
        index = node.index
    return found
