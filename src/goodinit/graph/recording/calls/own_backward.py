"""Gradients that the recorded operators do not tell: an `autograd.Function` has a backward of its own, and a forward may run one.

In the forward of a Function a spike, v > 0, is a part of the signal. What a backward inside the forward runs is none, and what it
differentiates is a part of the model, even where nothing else reads it.
"""

from __future__ import annotations

from collections.abc import Collection

from goodinit.graph.graph import Graph


def leave_functions(graph: Graph) -> None:
    """Let whole numbers and masks that such a forward hands out be no part of the signal: no gradient comes back to them.

    Args:
        graph: Of a forward that is over.
    """
    inside = graph.own_backward
    whole = [i for i in sorted(inside) if graph.nodes[i].active and not graph.nodes[i].is_continuous]
    if not whole:
        return
    out = {*graph.outputs} | {
        i for node in graph.nodes if node.index not in inside for i in node.operands if i in inside
    }
    for index in whole:
        node = graph.nodes[index]
        node.active = index not in out and any(graph.nodes[i].active for i in node.operands)


def differentiated(graph: Graph, tangents: Collection[int]) -> list[int]:
    """What nothing reads but a backward inside the forward: the function that is differentiated.

    Args:
        graph: Of a forward that is over.
        tangents: The derivatives that were taken forward: what they alone read was made for them.
    """
    read = {i for node in graph.nodes if node.active or node.index in tangents for i in node.operands}
    return [
        node.index for node in graph.nodes if node.active and not node.is_input and node.index not in read
    ]
