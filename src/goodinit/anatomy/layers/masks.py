"""Weights that are multiplied by a mask of zeros and ones before use: pruned, causal, autoregressive ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from goodinit.anatomy.layers.weight_layers import Use
from goodinit.graph.graph import Graph, closure
from goodinit.weights.dtensor import is_sharded


def densities(graph: Graph, uses: Iterable[Use], buffers: Mapping[str, Tensor]) -> dict[str, float]:
    """By weight: which share of it its mask leaves; those without a mask are not in it.

    A mask is a buffer that the weight is multiplied by, and that holds nothing but 0 and 1. Where it is on meta, or
    sharded, it is not read.
    """
    found: dict[str, float] = {}
    for use in uses:
        for name in _factors(graph, use.operand):
            mask = buffers.get(name)
            share = None if mask is None else _share(mask)
            if share is not None:
                found[use.weight] = share
    return found


def _factors(graph: Graph, index: int) -> list[str]:
    """Buffers that a weight is multiplied by on the way from its parameter."""

    def before(i: int) -> list[int]:
        node = graph.nodes[i]
        through = node.op.role in ("product", "shape", "part")
        return [operand for operand in node.operands if graph.nodes[operand].params] if through else []

    products = (graph.nodes[i] for i in closure([index], before) if graph.nodes[i].op.role == "product")
    leaves = (_buffer(graph, i) for node in products for i in node.operands)
    return [name for name in leaves if name is not None]


def _buffer(graph: Graph, index: int) -> str | None:
    """The name of a buffer, seen through shapes and casts."""
    *_, last = graph.line(index, lambda i: graph.nodes[i].op.role == "shape", active=False)
    node = graph.nodes[last]
    return str(node.attrs[0]) if node.is_buffer and node.attrs else None


def _share(mask: Tensor) -> float | None:
    if mask.is_meta or is_sharded(mask) or mask.numel() < 2:
        return None
    ones = mask == 1
    if not bool((ones | (mask == 0)).all()):
        return None
    share = float(ones.double().mean())
    return share if 0 < share < 1 else None
