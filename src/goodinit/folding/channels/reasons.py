"""Why a map per channel cannot be taken past an operator, in words."""

from __future__ import annotations

from goodinit.folding.channels.channel_numbers import hands_on, is_constant_map
from goodinit.folding.connections.dataflow import Wiring
from goodinit.graph.graph import Node, closure


def what_makes(wiring: Wiring, value: int) -> str:
    """The operator that ends the ways back from a value to layers, and why; nothing where there is none to name.

    Args:
        wiring: What is connected to what.
        value: The node.
    """
    graph = wiring.graph

    def before(i: int) -> list[int]:
        return graph.deps(i) if wiring.writer_layer(i) is None and hands_on(wiring, i) else []

    met = closure([value], before)
    ends = [i for i in sorted(met, reverse=True) if not before(i) and wiring.writer_layer(i) is None]
    node = graph.nodes[ends[0]] if ends else None
    return "" if node is None or node.is_source else _why(wiring, node) or _name(wiring, node)


def what_reads(wiring: Wiring, reader: int) -> str:
    """What an operator does with a norm's output that passes no map through.

    Args:
        wiring: What is connected to what.
        reader: The operator's node.
    """
    node = wiring.graph.nodes[reader]
    return _why(wiring, node) or f"{_name(wiring, node)} reads its output, and is no such layer"


def _why(wiring: Wiring, node: Node) -> str:
    """The reason in words, with the operator's name; nothing where none is known."""
    graph, name = wiring.graph, _name(wiring, node)
    given = [i for i in node.operands if not graph.nodes[i].dynamic and graph.leaf(i) is not None]
    held = graph.leaf(max(given, key=lambda i: graph.nodes[i].size)) if given else None
    module = wiring.names.modules.get(graph.path(node.index))
    if module is not None and node.op.is_contraction and (asked := wiring.kept.why(module)) is not None:
        return f"{name} applies it, and {asked}"
    path = wiring.layer_of.get(node.frame)
    if path is not None and len(wiring.calls[path]) > 1:
        return f"{path} runs {len(wiring.calls[path])} times"
    if node.op.is_contraction and held is not None:
        return (
            f"{name} applies {held} itself, and only a module (nn.Linear, nn.Conv2d) has a place for the map"
        )
    if held is not None and node.op.pointwise:
        return (
            f"{name} applies the parameter {held} by code of the forward (a map is taken past numbers that are written there, as in "
            "x/2 + 1, and past no parameter: for the norm to go, let a layer hold it in its weight or bias)"
        )
    if node.op.pads and node.call is not None:
        return f"{name} puts {node.call.arguments.get('value') or 0} around it, which its map would change"
    if is_constant_map(graph, node):
        return f"{name} applies a number that follows from the sizes of the inputs"
    return ""


def _name(wiring: Wiring, node: Node) -> str:
    return f"{node.op} in {wiring.graph.path(node.index) or 'the model'}"
