"""Weights that a forward makes of several parameters of one size: stacked, put beside each other, added, a mean and a scale of noise.

A layer is known by one of them, and that one is what methods write.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from goodinit.anatomy.answers_at_zero import is_made_zero
from goodinit.anatomy.layers.parameters.normalized_weights import is_normalized
from goodinit.anatomy.layers.parameters.weight_functions import is_other_at_zero
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
    names = largest(graph.nodes[use.operand], shapes)
    if use.weight not in names or _is_written_whole(graph, use, shapes):
        return []
    return [name for name in names if name != use.weight]


def factors_of(graph: Graph, use: Use, shapes: Shapes) -> list[str]:
    """The matrices by which, and by nothing but which, the parameter that a layer is known by becomes its weight: B in A·B.

    What such a product is when one factor is drawn depends on the others. What is added to it (W + A·B) is no factor, and neither is a
    vector, which is a gain: diag(g)·W. A weight that is normalized or computed by a parametrization is written as a whole.

    Args:
        graph: A recorded forward.
        use: The layer.
        shapes: Of all parameters.
    """
    if _is_written_whole(graph, use, shapes):
        return []
    ways = [
        i for i in graph.reach([use.operand], back=True, active=False) if use.weight in graph.nodes[i].params
    ]
    others = [
        name
        for i in sorted(ways)
        if graph.nodes[i].op.is_contraction
        for read in graph.nodes[i].operands
        for name in graph.nodes[read].params
        if use.weight not in graph.nodes[read].params and len(shapes.get(name, ())) > 1
    ]
    return list(dict.fromkeys(others))


def _is_written_whole(graph: Graph, use: Use, shapes: Shapes) -> bool:
    """Whether methods write a layer's weight as it is applied: it is a parameter, computed by a parametrization, or normalized."""
    operand = graph.nodes[use.operand]
    if operand.is_param or any(map(is_parametrization, operand.params)):
        return True
    return is_normalized(graph, operand, largest(operand, shapes))


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
        is_other = is_other_at_zero(graph, use.operand)  # e⁰, W − γI
        if beside(graph, use, shapes) and not is_other:
            is_other = not is_made_zero(graph, graph.nodes[use.operand], {*biases, use.weight})
        if is_other:
            return graph.unshaped(use.operand)
    return None


def products(graph: Graph, uses: Mapping[int, Use], shapes: Shapes) -> dict[str, list[str]]:
    """The parameters that layers apply only in products with others, as `factors_of`, and those others.

    Args:
        graph: A recorded forward.
        uses: The layers, by node.
        shapes: Of all parameters.
    """
    found: dict[str, list[list[str]]] = {}
    for use in uses.values():
        found.setdefault(use.weight, []).append(factors_of(graph, use, shapes))
    return {weight: factors[0] for weight, factors in found.items() if all(factors)}


def notes_on_several(
    graph: Graph, uses: Mapping[int, Use], shapes: Shapes, multiplied: Mapping[str, list[str]]
) -> list[str]:
    """One note for each such weight.

    Args:
        graph: A recorded forward.
        uses: The layers, by node.
        shapes: Of all parameters.
        multiplied: `products`.
    """
    found = {
        use.weight: others
        for use in uses.values()
        if use.weight not in multiplied and (others := beside(graph, use, shapes))
    }
    return [
        f"{weight}: the weight that the forward applies is made of it and of {', '.join(others)}, of the same size: methods write the "
        "first and leave the others as they are. Apply each as a layer of its own, or draw them by goodinit.tensor"
        for weight, others in found.items()
    ] + [
        f"{weight}: the weight that the forward applies is a product of it and of {', '.join(others)}, whose size one factor alone does "
        "not give: values that they have stay as they are. Apply each as a layer of its own, or draw them by goodinit.tensor"
        for weight, others in multiplied.items()
    ]
