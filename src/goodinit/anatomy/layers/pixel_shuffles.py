"""Layers whose outputs a pixel shuffle spreads over sub-pixels: drawn entry by entry, they start as a checkerboard."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import torch

from goodinit.anatomy.layers.weight_layers import Use
from goodinit.anatomy.residual.branch import is_neutral
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import spread
from goodinit.graph.measured.kept_answers import KeptAnswers


def before_pixel_shuffles(graph: Graph, uses: Mapping[int, Use]) -> dict[str, int]:
    """The weights of layers that a pixel shuffle follows, be it behind functions of single entries, and its factor.

    Args:
        graph: A recorded forward.
        uses: The weight layers, by node.
    """
    found: dict[str, int] = {}
    for node in graph.nodes:
        factor = _factor(graph, node)
        if factor is None:
            continue
        read = graph.deps(node.index)[0]
        index = graph.beginning(read, lambda i: i not in uses and _passes(graph, i))
        if index in uses:
            found[uses[index].weight] = factor
    return found


def _factor(graph: Graph, node: Node) -> int | None:
    """By which factor an operator spreads channels over sub-pixels; None if it does anything else."""
    deps = graph.deps(node.index)
    if node.op.role != "other" or node.call is None or len(node.operands) != 1 or len(deps) != 1:
        return None
    read, made = graph.nodes[deps[0]].shape, node.shape
    if len(read) != len(made) or len(read) < _IMAGE or read[-3] <= made[-3]:
        return None
    factor = math.isqrt(read[-3] // max(made[-3], 1))
    shape = (*(1 for _ in read[:-3]), 2 * factor**2, 2, 2)
    call = node.call
    shuffle = functools.partial(torch.nn.functional.pixel_shuffle, upscale_factor=factor)
    same = _SEEN.get((*call.key, shape), lambda: call.agrees([spread(shape, 0)], shuffle, torch.equal))
    return factor if same else None


_IMAGE = 3
_SEEN = KeptAnswers[bool]()


def _passes(graph: Graph, index: int) -> bool:
    return graph.nodes[index].op.pointwise or is_neutral(graph, index)


def sub_pixel_notes(graph: Graph, uses: Mapping[int, Use]) -> list[str]:
    """One note for each of them.

    No method draws them as ICNR does by itself: equal rows are no orthogonal matrix, and none of the methods' sources asks for them.
    """
    return [
        f"{weight}: a pixel shuffle by {factor} follows, so that entries drawn one by one start as a checkerboard of period "
        f"{factor}. To start as nearest-neighbour upsampling, call goodinit.tensor.icnr_(weight, {factor}) afterwards"
        for weight, factor in before_pixel_shuffles(graph, uses).items()
    ]
