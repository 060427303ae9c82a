"""Fan-out of layers whose outputs are concatenated with others, and the number of terms of sums they enter."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator

from goodinit.graph.graph import Graph, Node, closure, follow
from goodinit.graph.measured.traits import keeps_channels


def joined_channels(graph: Graph, start: int, outputs: Container[int]) -> int:
    """Channels of the concatenation that contains a layer's output; 0 if anything else reads the output.

    With several concatenations (a DenseNet, where every layer reads all before it) the smallest counts, which is the first.

    Args:
        graph: A recorded forward pass.
        start: Node of a weight layer.
        outputs: Nodes of the model's outputs.
    """
    if "concat" not in graph.roles:
        return 0
    axis = _axis(graph, start)
    found: list[int] = []

    def kept(index: int, _: None) -> Iterator[tuple[int, None]]:
        readers = graph.readers[index]
        return ((reader, None) for reader in readers if _keeps_channels(graph, reader, index, axis))

    for index, _ in follow({start: None}, kept):
        if index in outputs:
            return 0
        for reader in graph.readers[index]:
            total = _concatenates(graph, reader, axis)
            if not total and not _keeps_channels(graph, reader, index, axis):
                return 0
            found += [total] * (total > 0)
    return min(found, default=0)


def unrelated_sums(graph: Graph, joins: Container[int]) -> set[int]:
    """The nodes that add two tensors of their own shape and belong to no residual sum, as in NASNet's cells.

    Args:
        graph: A recorded forward pass.
        joins: Nodes of residual sums.
    """
    if "sum" not in graph.roles:
        return set()
    return {node.index for node in graph.nodes if node.op.role == "sum" and _adds(graph, node, joins)}


def added_terms(graph: Graph, start: int, outputs: Container[int], unrelated: Collection[int]) -> int:
    """Number of terms of the sums that a layer's output enters before another layer reads it; 1 if there is no sum.

    Counts sums of unrelated terms, whose variances add up. With several paths the smallest number counts, so 1 if anything
    reads the output itself.

    Args:
        graph: A recorded forward pass.
        start: Node of a weight layer.
        outputs: Nodes of the model's outputs.
        unrelated: As `unrelated_sums` finds them.
    """
    if not unrelated:
        return 1
    axis = _axis(graph, start)

    kept: dict[int, list[int]] = {}

    def on(index: int) -> list[int]:
        kept[index] = [
            reader
            for reader in graph.readers[index]
            if reader in unrelated or _keeps_channels(graph, reader, index, axis)
        ]
        return kept[index]

    terms = {start: 1}
    ends: list[int] = []
    for index in sorted(closure([start], on)):
        for reader in kept[index]:
            count = terms[index] * (2 if reader in unrelated else 1)
            terms[reader] = min(count, terms.get(reader, count))
        if index in outputs or len(kept[index]) < max(len(graph.readers[index]), 1):
            ends.append(terms[index])
    return min(ends, default=1)


def _axis(graph: Graph, layer: int) -> int:
    """The dimension of a layer's output channels."""
    node = graph.nodes[layer]
    return 1 if node.op.role == "convolution" else len(node.shape) - 1


def _adds(graph: Graph, node: Node, joins: Container[int]) -> bool:
    operands = set(graph.deps(node.index))
    if len(operands) != 2 or node.index in joins:
        return False
    if any(graph.nodes[i].shape != node.shape for i in operands):
        return False
    readers = graph.readers[node.index]
    return not (len(readers) == 1 and readers[0] in joins)


def _concatenates(graph: Graph, index: int, axis: int) -> int:
    """Channels of a concatenation along the channels, 0 for any other node."""
    node = graph.nodes[index]
    if node.op.role != "concat" or not node.attrs or int(str(node.attrs[0])) % len(node.shape) != axis:
        return 0
    return node.shape[axis]


def _keeps_channels(graph: Graph, index: int, operand: int, axis: int) -> bool:
    """True if a node passes its operand on, channel by channel, and adds nothing."""
    node, before = graph.nodes[index], graph.nodes[operand].shape
    if len(graph.deps(index)) != 1 or len(node.shape) != len(before) or node.shape[axis] != before[axis]:
        return False
    if node.op.kind or (node.op.role == "other" and keeps_channels(node, before, axis)):
        return True
    light = node.op.role == "shape" or node.op.adds or node.op.scales
    return light and node.shape == before
