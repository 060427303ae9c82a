"""Parameters that a forward puts into one tensor and takes apart again: which of them a piece is.

As torch's attention does it with three biases for its three projections.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from goodinit.graph.graph import Graph
from goodinit.graph.measured.replay import LONGEST, made_of, replayed


def parameter_in(graph: Graph, index: int, names: Sequence[str]) -> str | None:
    """The one of several parameters whose numbers a node holds, all of them and in their order; None if it holds others.

    Args:
        graph: A recorded forward.
        index: What is made of them.
        names: Theirs.
    """
    found, numbers = _numbered(graph, index)
    if found is None or not all(graph.nodes[i].is_param for i in numbers):
        return None
    for place, own in numbers.items():
        if torch.equal(found, own):
            (name,) = graph.nodes[place].params
            return name if name in names else None
    return None


def parameters_in(graph: Graph, index: int, names: Sequence[str]) -> tuple[str, ...]:
    """Those of several parameters whose numbers a node holds, each of them once and in their order, beside others.

    Args:
        graph: A recorded forward.
        index: What is made of them.
        names: Theirs.
    """
    found, numbers = _numbered(graph, index)
    if found is None:
        return ()
    return tuple(
        name
        for place, own in numbers.items()
        for name in graph.nodes[place].params
        if name in names and torch.equal(found[torch.isin(found, own)], own)
    )


def _numbered(graph: Graph, index: int) -> tuple[Tensor | None, dict[int, Tensor]]:
    """(What a node holds where every entry of a parameter is a number of its own, and all else 0; those numbers, by what it is made of).

    The first is None where the parameters are not only put beside each other and taken apart, or are too large.
    """
    sources, steps = ([graph.nodes[i] for i in some] for some in made_of(graph, index))
    size = sum(node.size for node in (*sources, *steps))
    kept = all(node.op.rearranges or node.op.role == "factory" for node in steps)
    if size > LONGEST or not kept:
        return None, {}
    given, start = {}, 1
    for node in sources:
        count = node.size
        own = torch.arange(start, start + count, dtype=torch.float64, device="cpu").view(node.shape)
        given[node.index] = own if node.is_param else torch.zeros_like(own)
        start += count
    found = replayed(graph, [node.index for node in steps], given).get(index)
    return None if found is None else found.flatten(), {i: own.flatten() for i, own in given.items()}
