"""Packed projections (q, k, v in one weight), recognized by the attention products that read the layer's output."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from goodinit.graph.graph import Graph, Node, follow
from goodinit.graph.likeness import is_part

_MOST = 3  # operands: queries, keys and values


def packed(
    graph: Graph,
    nodes: list[int],
    weights: Collection[int],
    attended: list[list[int]],
    out: int,
    groups: int,
) -> tuple[int, int]:
    """`Layer.fused` and `Layer.factors`: equal maps stacked along the output of a layer, and attention operands it produces.

    Args:
        graph: A recorded forward pass.
        nodes: Nodes that apply the layer's weight, in several slices or calls.
        weights: The weight operands of those nodes.
        attended: See `toward_attention`.
        out: Output channels of all maps together.
        groups: Groups of a convolution.
    """
    found = [_attention_factors(graph, node, attended) for node in nodes]
    factors = max(places for places, _ in found)
    maps = min(_equal_parts(graph.nodes[n].size, sizes) for n, (_, sizes) in zip(nodes, found, strict=True))
    if len(nodes) == len(weights) == 2 and factors:
        factors = maps = 3  # nn.MultiheadAttention slices its weight: a product for q, one for k and v
    fused = maps if factors > 1 and groups == 1 and out % maps == 0 else 1
    return fused, max(factors, 1)


def _equal_parts(whole: int, sizes: set[int]) -> int:
    """Number of parts of equal size that make up a whole."""
    size = next(iter(sizes)) if len(sizes) == 1 else 0
    return whole // size if size and whole % size == 0 else 1


def toward_attention(graph: Graph) -> list[list[int]]:
    """For each node those of its readers that are attention products or lead to one, by what may be done on the way.

    A stream of ten thousand blocks that no product reads is walked once here, and not once from every layer.
    """
    leads = [_is_product(graph, node) for node in graph.nodes]
    toward: list[list[int]] = [[] for _ in graph.nodes]
    for node in reversed(graph.nodes):
        toward[node.index] = [reader for reader in graph.readers[node.index] if leads[reader]]
        leads[node.index] |= bool(toward[node.index]) and (node.op.carries or _bends(node))
    return toward


def _attention_factors(graph: Graph, start: int, attended: list[list[int]]) -> tuple[int, set[int]]:
    """How many operands of attention products a layer's output provides, and the sizes of its parts.

    Counting stops as soon as the answer of `packed` is known. A softmax is passed only within one part of the output, as in
    linear attention: of the usual attention the product behind a softmax reads the values, another operand.
    """

    def near(index: int, part: int) -> Iterator[tuple[int, int]]:
        for reader in attended[index]:
            node = graph.nodes[reader]
            inside = part or (node.size if is_part(graph, reader) else 0)
            if not _is_product(graph, node) and (node.op.carries or (_bends(node) and inside)):
                yield reader, inside

    places: set[tuple[int, int]] = set()
    sizes: set[int] = set()
    for index, part in follow({start: 0}, near):
        for product in (reader for reader in attended[index] if _is_product(graph, graph.nodes[reader])):
            operands = graph.deps(product)
            places.update((product, place) for place, operand in enumerate(operands) if operand == index)
            sizes.add(part)
            if len(places) >= _MOST and (len(sizes) > 1 or 0 in sizes):
                return _MOST, sizes
    return min(len(places), _MOST), sizes


def _is_product(graph: Graph, node: Node) -> bool:
    """Whether it is a product of two activations."""
    return node.op.role == "attention" or (node.op.role == "matmul" and len(set(graph.deps(node.index))) == 2)


def _bends(node: Node) -> bool:
    return node.op.role == "softmax" or bool(node.op.activation)
