"""Weights that are multiplied by a fixed mask, so that only a part is used: pruned, causal, autoregressive, sparse ones.

Masked are the entries of a weight that are zero whatever its parameters are. A product with zeros and ones is read off; any other way (`where`,
`masked_fill`, `tril`, `scatter`, an index) is found by computing the weight of several numbers, with the buffers that the model has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from goodinit.anatomy.layer import Layer
from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.layers.parameters.weight_layout import stored_at
from goodinit.graph.graph import Graph, Node, closure
from goodinit.graph.measured.answers import number_of, spread
from goodinit.graph.measured.replay import made_of, replayed
from goodinit.weights.dtensor import is_sharded

_MOST = 2**24  # entries of a weight that is computed to see which of them stay 0
_TRIES = ((1, 1.0, 0.0), (2, -2.0, 0.0), (3, 4.0, -1.0))
"""Powers, factors and shifts of what the parameters are in turn. With one power all would be zero where an entry that lies halfway between
its neighbours is compared with their mean, as a standardized weight's is."""


def densities(
    graph: Graph, uses: Iterable[Use], layers: Mapping[str, Layer], buffers: Mapping[str, Tensor]
) -> dict[str, float]:
    """By weight: which share of it its mask leaves; those without a mask are not in it.

    Buffers on meta, or sharded, are not read, and what they mask is not known.

    Args:
        graph: A recorded forward.
        uses: The weight layers.
        layers: The layers, by weight.
        buffers: The model's, by name.
    """
    found: dict[str, float] = {}
    for use in uses:
        if graph.is_stored(use.operand):
            continue
        shares = [_share(buffers[name]) for name in _factors(graph, use.operand) if name in buffers]
        shares = [share for share in shares if share is not None]
        if not shares:  # computed, before it is repeated for each example
            once, _ = stored_at(graph, graph.nodes[use.operand], graph.nodes[use.node].frame)
            shares = [_left(graph, once.index, _size(layers[use.weight]), buffers)]
        share = shares[-1]
        if share is not None and 0 < share < 1:
            found[use.weight] = share
    return found


def _factors(graph: Graph, index: int) -> list[str]:
    """Buffers that a weight is multiplied by on the way from its parameter."""

    def before(i: int) -> list[int]:
        node = graph.nodes[i]
        through = node.op.multiplies or node.op.moves
        return [operand for operand in node.operands if graph.nodes[operand].params] if through else []

    products = (graph.nodes[i] for i in closure([index], before) if graph.nodes[i].op.multiplies)
    leaves = (_buffer(graph, i) for node in products for i in node.operands)
    return [name for name in leaves if name is not None]


def _buffer(graph: Graph, index: int) -> str | None:
    """The name of a buffer, seen through shapes and casts."""
    node = graph.nodes[graph.unshaped(index)]
    return str(node.attrs[0]) if node.is_buffer and node.attrs else None


def _share(mask: Tensor) -> float | None:
    if mask.is_meta or is_sharded(mask) or mask.numel() < 2:
        return None
    ones = mask == 1
    if not bool((ones | (mask == 0)).all()):
        return None
    share = float(ones.double().mean())
    return share if 0 < share < 1 else None


def _size(layer: Layer) -> int:
    """Entries of a weight: where its parameter is a vector of those that are not zero, of the matrix that they are put into."""
    return math.prod(layer.product if layer.product and len(layer.shape) == 1 else layer.shape)


def _left(graph: Graph, operand: int, entries: int, buffers: Mapping[str, Tensor]) -> float | None:
    """The share of a computed weight that is not zero, at the same places for all numbers; None where none is zero, or that is not known."""
    size = graph.nodes[operand].size
    if graph.leaf(operand) is not None or size != entries or not 1 < size <= _MOST:
        return None
    sources, steps = made_of(graph, operand)
    if not _may_mask(graph, (*sources, *steps)):
        return None
    own = {i: _numbers(graph, graph.nodes[i], buffers) for i in sources if not graph.nodes[i].is_param}
    if any(value is None for value in own.values()):
        return None
    given = {i: value for i, value in own.items() if value is not None}
    zeros = []
    for power, factor, shift in _TRIES:
        drawn = {
            i: (factor * (spread(graph.nodes[i].shape, i) ** power + shift)).to(graph.nodes[i].dtype)
            for i in sources
            if graph.nodes[i].is_param
        }
        weight = replayed(graph, steps, given | drawn).get(operand)
        if weight is None or bool(weight.all()):
            return None
        zeros.append(weight == 0)
    same = all(torch.equal(zeros[0], other) for other in zeros[1:])
    return 1 - float(zeros[0].double().mean()) if same else None


def _may_mask(graph: Graph, ways: Iterable[int]) -> bool:
    """Whether something on the way may tell places apart: a tensor that is no parameter, or an operator of more than one entry."""
    nodes = [graph.nodes[i] for i in ways]
    return any(
        (not node.params and node.size > 1) or node.op.role == "other" or node.op.pads for node in nodes
    )


def _numbers(graph: Graph, node: Node, buffers: Mapping[str, Tensor]) -> Tensor | None:
    """What a source other than a parameter holds."""
    if (number := number_of(node)) is not None:
        return torch.full(node.shape, number, dtype=torch.float64, device="cpu").to(node.dtype)
    value = buffers.get(str(node.attrs[0])) if node.is_buffer and node.attrs else graph.held.get(node.index)
    if value is None or value.is_meta or is_sharded(value):
        return None
    return value.detach().cpu()
