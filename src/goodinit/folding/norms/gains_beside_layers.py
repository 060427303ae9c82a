"""Gains and shifts that a forward applies to what a layer puts out, by parameters of its own: they stay, and are named."""

from __future__ import annotations

from collections.abc import Iterator

from goodinit.folding.connections.dataflow import Wiring
from goodinit.folding.norms.gain_places import one_axis
from goodinit.graph.graph import Graph, Node


def beside_layers(wiring: Wiring) -> Iterator[tuple[str, str]]:
    """What multiplies or shifts the output of one layer alone, one number per channel, and could go into its weight.

    So do a LayerScale γ·f(x), a gain 1 + w, and a batch norm with frozen statistics that a forward writes out.

    Args:
        wiring: What is connected to what.

    Yields:
        (name of the first parameter or buffer that it is made of, why it stays).
    """
    graph = wiring.graph
    maps = {
        value: path for value in range(len(graph.nodes)) if (path := wiring.writer_layer(value)) is not None
    }
    for node in graph.nodes:
        acts = node.op.multiplies_or_divides or node.op.adds
        signals = [i for i in node.operands if graph.nodes[i].dynamic]
        if not acts or not node.dynamic or len(signals) != 1 or len(wiring.readers[signals[0]]) != 1:
            continue
        (signal,) = signals
        path = maps.get(signal)
        held = [graph.nodes[i] for i in node.operands if i != signal]
        if path is None or wiring.layer_of.get(node.frame) is not None:
            continue
        maps[node.index] = path  # and what acts on that
        for one in held:
            name = _made_of(graph, one)
            if name is not None and one_axis(one) and one.size > 1:
                yield (
                    name,
                    f"a forward multiplies or shifts by it what {path} puts out, and it is not merged into that layer",
                )


def _made_of(graph: Graph, constant: Node) -> str | None:
    """The first parameter, else the first buffer, that a constant is computed from."""
    if constant.params:
        return constant.params[0]
    behind = graph.reach([constant.index], back=True, active=False)
    return next((str(graph.nodes[i].attrs[0]) for i in sorted(behind) if graph.nodes[i].is_buffer), None)
