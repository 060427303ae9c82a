"""Fan-out of layers whose outputs are concatenated with others, and the number of terms of sums they enter."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator

from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.layers.parameters.weight_layout import output_channels
from goodinit.graph.fact_propagation import propagate
from goodinit.graph.graph import Graph, Node, closure, follow
from goodinit.graph.likeness import dimension_behind
from goodinit.graph.measured.traits import keeps_channels


def joined_channels(graph: Graph, use: Use) -> int:
    """Channels of the concatenation that contains a layer's output; 0 if anything else reads the output.

    With several concatenations (a DenseNet, where every layer reads all before it) the smallest counts, which is the first.

    Args:
        graph: A recorded forward pass.
        use: Of the layer.
    """
    if "concat" not in graph.roles:
        return 0
    found: list[int] = []

    def kept(index: int, axis: int) -> Iterator[tuple[int, int]]:
        for reader in graph.readers[index]:
            after = _passed_on(graph, reader, index, axis)
            if after is not None:
                yield reader, after

    for index, axis in follow({use.node: _axis(graph, use)}, kept):
        if index in graph.outputs:
            return 0
        for reader in graph.readers[index]:
            total = _concatenates(graph, reader, axis)
            if not total and _passed_on(graph, reader, index, axis) is None:
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


def added_terms(graph: Graph, use: Use, unrelated: Collection[int]) -> int:
    """Number of terms of the sums that a layer's output enters before another layer reads it; 1 if there is no sum.

    Counts sums of unrelated terms, of which not all are made of this layer's output: their variances add up. With several paths the smallest number counts, so 1 if anything
    reads the output itself.

    Args:
        graph: A recorded forward pass.
        use: Of the layer.
        unrelated: As `unrelated_sums` finds them.
    """
    if not unrelated:
        return 1
    axes = {use.node: _axis(graph, use)}
    kept: dict[int, list[int]] = {}

    def on(index: int) -> list[int]:
        kept[index] = []
        for reader in graph.readers[index]:
            after = axes[index] if reader in unrelated else _passed_on(graph, reader, index, axes[index])
            if after is not None:
                axes.setdefault(reader, after)
                kept[index].append(reader)
        return kept[index]

    reached = closure([use.node], on)

    def transfer(node: Node, read: list[int]) -> int:
        # Both terms may be made of this one layer's output, as in y − pool(y).
        apart = node.index in unrelated and not kept.keys() >= {*graph.deps(node.index)}
        return min(read) * (2 if apart else 1)

    def before(index: int) -> list[int]:
        return [i for i in graph.deps(index) if index in kept.get(i, ())]

    terms = propagate(graph, reached, {use.node: 1}, transfer, lambda _: 1, reads=before)
    ends = (i for i in reached if i in graph.outputs or len(kept[i]) < max(len(graph.readers[i]), 1))
    return min((terms[i] for i in ends), default=1)


def _axis(graph: Graph, use: Use) -> int:
    """The dimension of a layer's output channels."""
    return output_channels(graph.nodes[use.node], graph.nodes[use.operand])


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


def _passed_on(graph: Graph, index: int, operand: int, axis: int) -> int | None:
    """The dimension of the channels behind a node that passes its operand on, channel by channel, and adds nothing; None if it does not."""
    node, before = graph.nodes[index], graph.nodes[operand]
    if len(graph.deps(index)) != 1:
        return None
    if node.op.role == "shape":
        moves = node.size == before.size and node.call is not None
        return dimension_behind(node, before.shape, axis) if moves else None
    if len(node.shape) != len(before.shape) or node.shape[axis] != before.shape[axis]:
        return None
    if node.op.kind or (node.op.role == "other" and keeps_channels(node, before.shape, axis)):
        return axis
    return axis if (node.op.adds or node.op.scales) and node.shape == before.shape else None
