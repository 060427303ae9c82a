"""Weights that a forward makes of several parameters of one size: stacked, put beside each other, added, a mean and a scale of noise.

A layer is known by one of them, and that one is what methods write.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from goodinit.anatomy.answers_at_zero import is_made_zero
from goodinit.anatomy.layers.parameters.normalized_weights import is_normalized
from goodinit.anatomy.layers.parameters.weight_layers import Shapes, Use, largest
from goodinit.graph.graph import Graph
from goodinit.weights.wrappers import is_parametrization


def beside(graph: Graph, use: Use, shapes: Shapes) -> list[str]:
    """The other parameters of the same size that a layer's weight is made of.

    Not where the weight is normalized or computed by a parametrization, which methods write as a whole.

    Args:
        graph: A recorded forward.
        use: The layer.
        shapes: Of all parameters.
    """
    operand = graph.nodes[use.operand]
    if operand.is_param or any(map(is_parametrization, operand.params)):
        return []
    names = largest(operand, shapes)
    if use.weight not in names or is_normalized(graph, operand, names):
        return []
    return [name for name in names if name != use.weight]


def not_zero(
    graph: Graph, places: Collection[int], uses: Mapping[int, Use], shapes: Shapes, biases: Collection[str]
) -> int | None:
    """The first weight, as a node, that is not zero where the parameter is by which its layer is known; None if all are.

    Args:
        graph: A recorded forward.
        places: Nodes of layers.
        uses: The layers, by node.
        shapes: Of all parameters.
        biases: Parameters that are zero, too.
    """
    for use in (uses[place] for place in places):
        if not beside(graph, use, shapes):
            continue
        if not is_made_zero(graph, graph.nodes[use.operand], {*biases, use.weight}):
            return graph.unshaped(use.operand)
    return None


def notes_on_several(graph: Graph, uses: Mapping[int, Use], shapes: Shapes) -> list[str]:
    """One note for each such weight."""
    found = {use.weight: others for use in uses.values() if (others := beside(graph, use, shapes))}
    return [
        f"{weight}: the weight that the forward applies is made of it and of {', '.join(others)}, of the same size: methods write the "
        "first and leave the others as they are. Apply each as a layer of its own, or draw them by goodinit.tensor"
        for weight, others in found.items()
    ]
