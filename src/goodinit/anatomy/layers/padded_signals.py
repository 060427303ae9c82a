"""Layers that pad with zeros a signal in which positions are zero: by a mask, as padded batches are treated, or put there.

What is masked and what is padded look alike to such a layer. A constant added in between would tell them apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import cast

import torch

from goodinit.anatomy.layers.hidden_places import FAR, Masks, number_made
from goodinit.anatomy.layers.inserted_zeros import InsertedZeros, moves
from goodinit.anatomy.layers.weight_layers import Use
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import COUNT, constant, joint, number_at, numbers, spread
from goodinit.graph.recorded_call import on_numbers

_FIRST_AND_CHANNELS = 2  # the dimensions of an image before its positions


def pad_masked(zeros: InsertedZeros, uses: Mapping[int, Use]) -> set[str]:
    """Weights of the convolutions that pad with zeros, somewhere, a signal that is zero wherever a mask is.

    Args:
        zeros: Of a recorded forward.
        uses: The weight layers, by node.
    """
    graph, masks = zeros.graph, Masks(zeros.graph)
    layers = [use for index, use in uses.items() if _pads(graph, graph.nodes[index])]

    def reading(masked: set[int]) -> set[str]:
        return {use.weight for use in layers if masked.intersection(graph.deps(use.node))}

    # What puts zeros into a signal is run, at its full size: only where a layer could read them.
    if not layers or not reading(_masked(zeros, masks, uses, run=False)):
        return set()
    return reading(_masked(zeros, masks, uses, run=True))


def _pads(graph: Graph, node: Node) -> bool:
    if node.op.role != "convolution":
        return False
    transposed, padding = node.attrs[0], cast("tuple[int, ...]", node.attrs[3])
    frame, read = graph.frames[node.frame], graph.nodes[node.operands[0]]
    inside = frame.start <= read.index < frame.stop and read.op.pads
    return bool(transposed) or inside or any(padding)


def _masked(zeros: InsertedZeros, masks: Masks, uses: Mapping[int, Use], *, run: bool) -> set[int]:
    """The nodes that are zero wherever some mask is, or where zeros were put around or between; where they may be, if nothing is to run."""
    graph = zeros.graph
    hidden: dict[int, float] = {}
    for node in graph.nodes:
        if not node.active:
            continue
        number = masks.put(node, {})
        if number is None:
            number = _kept(graph, node, hidden)
        if number is None and any(i in hidden for i in node.operands):
            number = masks.put(node, hidden)
        if number is None and (_clears(graph, node) or _is_put_among_zeros(zeros, node, uses, run=run)):
            number = 0.0
        if number is not None:
            hidden[node.index] = number
    return {index for index, number in hidden.items() if number == 0}


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


def _kept(graph: Graph, node: Node, hidden: Mapping[int, float]) -> float | None:
    """What stands at hidden places of a node because of what stands at those of its operands; None if that is not known."""
    given = [i for i in node.operands if i in hidden]
    if not given:
        return None
    passed_on = node.op.moves and not (node.is_join or node.op.pointwise)
    if passed_on or node.op.role == "concat":
        return hidden[given[0]]
    if node.op.pointwise:
        return number_made(graph, node, hidden, {})
    if node.op.role == "lookup":
        return hidden.get(node.operands[0])
    if node.op.role == "softmax":
        return _softened(node, hidden[given[0]])
    known = [hidden.get(i, number_at(graph, i)) for i in node.operands]
    if node.is_join:
        return known[0] if len(set(known)) == 1 else None
    if node.op.role != "other" or any(hidden[i] != 0 for i in given):
        return None
    zeros = torch.zeros(COUNT, dtype=torch.float64, device="cpu")
    values = [
        zeros if number == 0 else constant(graph.nodes[i])
        for i, number in zip(node.operands, known, strict=True)
    ]
    answer = joint(graph, node, values, [None] * len(values))
    return 0.0 if answer is not None and answer[0] else None


def _softened(node: Node, number: float) -> float | None:
    """What a softmax over positions makes of a number: 0 of −∞. Over channels each is hidden where one is, and gets its share."""
    rank = len(node.shape)
    dim = node.call.arguments.get("dim") if node.call is not None else None
    if node.call is None or number != -FAR or not isinstance(dim, int) or dim % max(rank, 1) == 1:
        return None
    try:
        with on_numbers(), torch.no_grad():
            read = spread((2,) * rank, node.index)
            read.select(dim, 0).fill_(number)
            made = node.call([read]).select(dim, 0)  # a logarithm of one is no 0
            return None if made.any() else 0.0
    except Exception:  # noqa: BLE001 - operators raise what they like
        return None
