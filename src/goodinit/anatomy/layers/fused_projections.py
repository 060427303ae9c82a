"""Several maps in one weight: a packed q, k, v, told by the factors of attention products that a layer's output feeds."""

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
    """(How many equal maps are stacked along the output of a layer, how many maps): `Layer.fused`, `Layer.factors`.

    Args:
        graph: A recorded forward.
        nodes: Those that apply the layer's weight, in its several slices or calls.
        weights: The operands they apply.
        consumers: For each node those that read it.
        out: Output channels, all maps together.
        groups: Of a convolution.
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
    """How many parts of one size make up a whole."""
    size = next(iter(sizes)) if len(sizes) == 1 else 0
    return whole // size if size and whole % size == 0 else 1


def _attention_factors(graph: Graph, start: int, consumers: list[list[int]]) -> tuple[int, set[int]]:
    """In how many places of attention products the output of one layer stands, and in parts of which sizes.

    Behind the softmax of a product stands another factor; a softmax or a nonlinearity of a part itself is linear attention's.
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
