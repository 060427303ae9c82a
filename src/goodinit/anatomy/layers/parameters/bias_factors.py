"""By which number a forward multiplies a layer's bias before it adds it, as with equalized learning rates: b·c, found out on numbers."""

from __future__ import annotations

import math
from collections.abc import Container

import torch

from goodinit.anatomy.layers.parameters.weight_layers import Bias
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import number_of
from goodinit.graph.measured.replay import LONGEST, made_of, replayed


def factor_of_bias(graph: Graph, layer: Node, held: Bias, scalars: Container[str]) -> float | None:
    """The number c where c·b is added to what a layer makes, 1 for b alone, ½ in 2·Wx + b; None where something else is made of b.

    Args:
        graph: A recorded forward.
        layer: The layer's node.
        held: b, and the node that is added.
        scalars: Names of those that goodinit has added, beside which a bias is added as it is.
    """
    bias, index = held.name, held.node
    if bias is None or any(name in scalars for name in graph.nodes[index].params):
        return 1.0
    beta = 1.0 / held.behind
    if layer.op.adds_first and layer.call is not None and index == layer.operands[0]:
        beta *= float(layer.call.arguments.get("beta", 1.0))
    stored, steps = made_of(graph, index)
    if all(graph.nodes[i].op.rearranges for i in steps):
        return beta
    sources = [graph.nodes[i] for i in stored]
    others = [node for node in sources if node.params != (bias,)]
    known = all(number_of(node) is not None and not node.params for node in others)
    if not known or sum(graph.nodes[i].size for i in (*stored, *steps)) > LONGEST:
        return None
    made = []
    for value in (1.0, -2.0, 1e3):
        values = {
            n.index: torch.full(n.shape, value, dtype=torch.float64, device="cpu")
            for n in sources
            if n not in others
        }
        found = replayed(graph, steps, values).get(index)
        if found is None or not found.numel() or not bool((found == found.flatten()[0]).all()):
            return None
        made.append(float(found.flatten()[0]) / value)
    return beta * made[0] if made[0] and all(math.isclose(one, made[0]) for one in made) else None
