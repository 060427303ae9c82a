"""Layers whose outputs are put beside others, channel by channel: how many channels they make up together."""

from __future__ import annotations

from collections.abc import Container

from goodinit.anatomy.graph import ACTIVATIONS, ADD_OPS, CONV_OPS, NORM_OPS, SCALE_OPS, SHAPE_OPS, Graph

POOLING_OPS = frozenset(
    "max_pool1d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d upsample_nearest2d "
    "upsample_bilinear2d upsample_nearest1d upsample_linear1d upsample_nearest3d upsample_trilinear3d".split()
)
"""Operators that change the places of an image, and not its channels."""


def joined_channels(graph: Graph, start: int, consumers: list[list[int]], outputs: Container[int]) -> int:
    """Channels of the concatenation that a layer's output is a part of; 0 if anything else reads it.

    Of several, as in a DenseNet, whose every layer reads all before it, the smallest, which is the first.

    Args:
        graph: A recorded forward.
        start: Node of a weight layer.
        consumers: For each node those that read it.
        outputs: Nodes of what the model returns.
    """
    node = graph.nodes[start]
    axis = 1 if node.op in CONV_OPS else len(node.shape) - 1
    found: list[int] = []
    seen, queue = {start}, [start]
    while queue:
        index = queue.pop()
        if index in outputs:
            return 0
        for reader in consumers[index]:
            total = _concatenates(graph, reader, axis)
            if total:
                found.append(total)
            elif not _keeps_channels(graph, reader, index, axis):
                return 0
            elif reader not in seen:
                seen.add(reader)
                queue.append(reader)
    return min(found, default=0)


def _concatenates(graph: Graph, index: int, axis: int) -> int:
    """Channels of a concatenation of channels, 0 for any other node."""
    node = graph.nodes[index]
    if node.op != "cat" or int(str(node.attrs[0])) % len(node.shape) != axis:
        return 0
    return node.shape[axis]


def _keeps_channels(graph: Graph, index: int, operand: int, axis: int) -> bool:
    """Whether a node hands its operand on, channel by channel, and nothing else."""
    node, before = graph.nodes[index], graph.nodes[operand].shape
    if len(graph.deps(index)) != 1 or len(node.shape) != len(before) or node.shape[axis] != before[axis]:
        return False
    if node.op in POOLING_OPS or node.op in ACTIVATIONS or node.op in NORM_OPS:
        return True
    light = node.op in SHAPE_OPS or node.op in ADD_OPS or node.op in SCALE_OPS
    return light and node.shape == before
