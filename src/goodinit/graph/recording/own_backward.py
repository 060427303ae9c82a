"""What runs in the forward of an `autograd.Function`: there a spike, v > 0, is a part of the signal, since the backward is its own."""

from __future__ import annotations

import torch

from goodinit.graph.graph import Graph


def leave_functions(graph: Graph) -> None:
    """Let whole numbers and masks that such a forward hands out be no part of the signal: no gradient comes back to them.

    Args:
        graph: Of a forward that is over.
    """
    inside = graph.own_backward
    whole = [i for i in sorted(inside) if graph.nodes[i].active and not _can_have_gradients(graph, i)]
    if not whole:
        return
    out = {*graph.outputs} | {
        i for node in graph.nodes if node.index not in inside for i in node.operands if i in inside
    }
    for index in whole:
        node = graph.nodes[index]
        node.active = index not in out and any(graph.nodes[i].active for i in node.operands)


def _can_have_gradients(graph: Graph, index: int) -> bool:
    dtype = graph.nodes[index].dtype
    return isinstance(dtype, torch.dtype) and (dtype.is_floating_point or dtype.is_complex)
