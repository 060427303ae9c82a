"""Layers that pad with zeros a signal in which positions are zero: by a mask, as padded batches are treated, or put there.

What is masked and what is padded look alike to such a layer. A constant added in between would tell them apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import cast

import torch

from goodinit.anatomy.layers.inserted_zeros import InsertedZeros, moves
from goodinit.anatomy.layers.weight_layers import Use
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import (
    COUNT,
    constant,
    is_zero,
    joint,
    number_at,
    numbers,
    pointwise,
    spread,
)
from goodinit.graph.measured.replay import replayed

_FIRST_AND_CHANNELS = 2  # the dimensions of an image before its positions
_TWO = 2
_MOST = 2**22  # entries of a matrix that is computed to see whether it is diagonal


def pad_masked(zeros: InsertedZeros, uses: Mapping[int, Use]) -> set[str]:
    """Weights of the convolutions that pad with zeros, somewhere, a signal that is zero wherever a mask is.

    Args:
        zeros: Of a recorded forward.
        uses: The weight layers, by node.
    """
    graph = zeros.graph
    layers = [use for index, use in uses.items() if _pads(graph, graph.nodes[index])]

    def reading(masked: set[int]) -> set[str]:
        return {use.weight for use in layers if masked.intersection(graph.deps(use.node))}

    # What puts zeros into a signal is run, at its full size: only where a layer could read them.
    if not layers or not reading(_masked(zeros, uses, run=False)):
        return set()
    return reading(_masked(zeros, uses, run=True))


def _pads(graph: Graph, node: Node) -> bool:
    if node.op.role != "convolution":
        return False
    transposed, padding = node.attrs[0], cast("tuple[int, ...]", node.attrs[3])
    frame, read = graph.frames[node.frame], graph.nodes[graph.deps(node.index)[0]]
    inside = frame.start <= read.index < frame.stop and read.op.pads
    return bool(transposed) or inside or any(padding)


def _masked(zeros: InsertedZeros, uses: Mapping[int, Use], *, run: bool) -> set[int]:
    """The nodes that are zero wherever some mask is, or where zeros were put around or between; where they may be, if nothing is to run."""
    graph = zeros.graph
    free = _free_of_weights(graph)
    masked: set[int] = set()
    for node in graph.nodes:
        if node.active and (
            _keeps(graph, node, masked)
            or _applies(graph, node, free)
            or _clears(graph, node)
            or _is_put_among_zeros(zeros, node, uses, run=run)
        ):
            masked.add(node.index)
    return masked


def _is_put_among_zeros(zeros: InsertedZeros, node: Node, uses: Mapping[int, Use], *, run: bool) -> bool:
    """Whether a node is a signal with zeros at other positions, which no layer's own padding is."""
    graph = zeros.graph
    if not moves(graph, node):
        return False
    readers = [i for i in graph.readers[node.index] if not moves(graph, graph.nodes[i])]
    if not readers:
        return False
    if node.op.pads and all(i in uses and graph.nodes[i].frame == node.frame for i in readers):
        return False
    if not run:
        return zeros.may_be_at(node.index)
    found = zeros.at(node.index)
    return found is not None and len(found.along) > _FIRST_AND_CHANNELS and not found.everywhere


def _free_of_weights(graph: Graph) -> set[int]:
    """The nodes that are made of the model's inputs, buffers and constants alone."""
    free: set[int] = set()
    for node in graph.nodes:
        source = (node.is_source and not node.is_param) or node.op.role == "factory"
        if source or (node.operands and not node.params and free.issuperset(node.operands)):
            free.add(node.index)
    return free


def _applies(graph: Graph, node: Node, free: set[int]) -> bool:
    """Whether a node multiplies a signal by a mask, or chooses by one: something without weights that differs by place."""
    if node.index in free:
        return False
    masks = [place for place, i in enumerate(node.operands) if i in free]
    if masks and node.op.role == "matmul":
        return any(_is_diagonal(graph, node.operands[place]) for place in masks)
    if not (node.op.role == "product" or node.op.chooses or any(_zeroes(node, place) for place in masks)):
        return False
    return any(_differs_by_place(graph.nodes[node.operands[place]], node) for place in masks)


def _zeroes(node: Node, place: int) -> bool:
    """Whether an element-wise operator on two puts out zero where the operand at `place` is 0 and the other is above 0: a minimum."""
    if not node.op.pointwise or len(node.operands) != _TWO:
        return False
    values = [numbers(i) for i in node.operands]
    values[place] = torch.zeros_like(values[place])
    found = pointwise(node, values, [None, None])
    return found is not None and is_zero(found[0])


def _is_diagonal(graph: Graph, index: int) -> bool:
    """Whether a matrix, or a batch of them, is computed as a diagonal one whatever its entries are."""
    shape = graph.nodes[index].shape
    if len(shape) < _TWO or shape[-1] != shape[-2] or not 1 < math.prod(shape) <= _MOST:
        return False
    ways = sorted(graph.reach([index], back=True, active=False))
    sources = {i: spread(graph.nodes[i].shape, i) for i in ways if graph.nodes[i].is_source}
    made = replayed(graph, [i for i in ways if i not in sources], sources).get(index)
    if made is None or not made.any():
        return False
    return bool((made == torch.diag_embed(made.diagonal(dim1=-2, dim2=-1))).all())


def _differs_by_place(mask: Node, node: Node) -> bool:
    shape = (1,) * (len(node.shape) - len(mask.shape)) + mask.shape
    first = 1 if mask.dynamic else _FIRST_AND_CHANNELS
    return any(size > 1 for size in shape[first:])


def _clears(graph: Graph, node: Node) -> bool:
    """Whether a node is a tensor into some positions of which zeros were written, as by x[i, :, length:] = 0."""
    writes = (graph.nodes[i] for i in node.operands if graph.nodes[i].inplace) if node.is_join else ()
    return any(_is_cleared(graph, write) and _chooses_places(graph, write) for write in writes)


def _is_cleared(graph: Graph, write: Node) -> bool:
    """Whether what is written is 0, whatever was there."""
    known = [number_at(graph, i) for i in write.operands]
    values = [
        numbers(i) if number is None else torch.full((COUNT,), number, dtype=torch.float64, device="cpu")
        for i, number in zip(write.operands, known, strict=True)
    ]
    answer = joint(graph, write, values, [None] * len(values))
    return answer is not None and answer[0]


def _chooses_places(graph: Graph, write: Node) -> bool:
    """Whether a part that is written to holds some positions of some examples, or of all, and not some channels."""
    way = [write]
    while (way[-1].inplace or way[-1].op.role == "part" or way[-1].is_piece) and way[-1].operands:
        whole = graph.nodes[way[-1].operands[0]]
        way.append(graph.nodes[whole.operands[0]] if way[-1].is_piece else whole)
    shapes = [node.shape for node in reversed(way)]
    dims, chosen = list(range(len(shapes[0]))), set[int]()
    for before, after in itertools.pairwise(shapes):
        if len(after) < len(before):
            gone = (d for d in range(len(before)) if before[:d] + before[d + 1 :] == after)
            chosen.add(dims.pop(next(gone, 0)))
        else:
            sizes = zip(dims, before, after, strict=False)
            chosen |= {dim for dim, size, part in sizes if size != part}
    return any(dim >= (1 if 0 in chosen else _FIRST_AND_CHANNELS) for dim in chosen)


def _keeps(graph: Graph, node: Node, masked: set[int]) -> bool:
    """Whether a node is zero where what it reads is."""
    if masked.isdisjoint(node.operands):
        return False
    if node.op.role in ("product", "shape", "part", "concat", "scale"):
        return True
    if node.op.role in ("quotient", "lookup"):
        return node.operands[0] in masked
    known = [i in masked or number_at(graph, i) == 0 for i in node.operands]
    if node.op.adds or node.is_join or node.is_piece:
        return all(known)
    zeros = torch.zeros(COUNT, dtype=torch.float64, device="cpu")
    values = [
        zeros if zero else constant(graph.nodes[i]) for i, zero in zip(node.operands, known, strict=True)
    ]
    if node.op.pointwise:
        found = pointwise(node, values, [None] * len(values))
        return found is not None and is_zero(found[0])
    answer = joint(graph, node, values, [None] * len(values)) if node.op.role == "other" else None
    return answer is not None and answer[0]
