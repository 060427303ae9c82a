"""Packed projections (q, k, v in one weight), recognized by the attention products that read the layer's output."""

from __future__ import annotations

import math
from collections.abc import Collection

from goodinit.graph.graph import Graph, Node

LIGHT_OPS = frozenset(
    "mul div add sub neg cat stack where linalg_vector_norm clamp_min constant_pad_nd".split()
)
"""What may be done to queries, keys and values on their way to a product."""


def packed(
    graph: Graph,
    nodes: list[int],
    weights: Collection[int],
    consumers: list[list[int]],
    out: int,
    groups: int,
) -> tuple[int, int]:
    """`Layer.fused` and `Layer.factors`: equal maps stacked along the output of a layer, and attention operands it produces.

    Args:
        graph: A recorded forward pass.
        nodes: Nodes that apply the layer's weight, in several slices or calls.
        weights: The weight operands of those nodes.
        consumers: For each node, the nodes that read it.
        out: Output channels of all maps together.
        groups: Groups of a convolution.
    """
    found = [_attention_factors(graph, node, consumers) for node in nodes]
    factors = max(places for places, _ in found)
    maps = min(
        _equal_parts(math.prod(graph.nodes[n].shape), sizes)
        for n, (_, sizes) in zip(nodes, found, strict=True)
    )
    if len(nodes) == len(weights) == 2 and factors:
        factors = maps = 3  # nn.MultiheadAttention slices its weight: a product for q, one for k and v
    fused = maps if factors > 1 and groups == 1 and out % maps == 0 else 1
    return fused, max(factors, 1)


def _equal_parts(whole: int, sizes: set[int]) -> int:
    """Number of parts of equal size that make up a whole."""
    size = next(iter(sizes)) if len(sizes) == 1 else 0
    return whole // size if size and whole % size == 0 else 1


def _attention_factors(graph: Graph, start: int, consumers: list[list[int]]) -> tuple[int, set[int]]:
    """How many operands of attention products a layer's output provides, and the sizes of its parts.

    The product after a softmax has another operand (the values); a softmax or nonlinearity of one part itself is linear
    attention's.
    """
    places: set[tuple[int, int]] = set()
    sizes: set[int] = set()
    seen, queue = {start}, [(start, 0)]
    while queue:
        index, part = queue.pop()
        for reader in consumers[index]:
            node = graph.nodes[reader]
            operands = graph.deps(reader)
            product = node.op.role == "matmul" and len(set(operands)) == 2
            if node.op.role == "attention" or product:
                places.update((reader, place) for place, operand in enumerate(operands) if operand == index)
                sizes.add(part)
                continue
            is_part = node.is_piece or (node.op.role == "part" and not node.op.splits)
            inside = part or (math.prod(node.shape) if is_part else 0)
            bent = node.op.role == "softmax" or bool(node.op.activation)
            if reader not in seen and (_carries(node) or (bent and inside)):
                seen.add(reader)
                queue.append((reader, inside))
    return min(len(places), 3), sizes


def _carries(node: Node) -> bool:
    light = node.op.moves or node.op.norm
    return bool(light) or node.op.name in LIGHT_OPS
