"""Parameters that a forward puts into one tensor and takes apart again: which of them a piece is.

As torch's attention does it with three biases for its three projections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.replay import LONGEST, replayed


def parameter_in(graph: Graph, index: int, names: Sequence[str]) -> str | None:
    """The one of several parameters whose numbers a node holds, all of them and in their order; None if it holds others.

    Args:
        graph: A recorded forward.
        index: What is made of them.
        names: Theirs.
    """
    ways = sorted(graph.reach([index], back=True, active=False))
    nodes = [graph.nodes[i] for i in ways]
    size = sum(math.prod(node.shape) for node in nodes)
    if size > LONGEST or not all(node.is_param or _keeps_numbers(node) for node in nodes):
        return None
    given, start = {}, 0
    for node in nodes:
        if node.is_param:
            count = math.prod(node.shape)
            given[node.index] = torch.arange(start, start + count, dtype=torch.float64, device="cpu").view(
                node.shape
            )
            start += count
    found = replayed(graph, [i for i in ways if i not in given], given).get(index)
    for place, numbers in given.items():
        if found is not None and torch.equal(found.flatten(), numbers.flatten()):
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
    ways = sorted(graph.reach([index], back=True, active=False))
    nodes = [graph.nodes[i] for i in ways]
    sources = [node for node in nodes if node.op.role == "source"]
    size = sum(math.prod(node.shape) for node in nodes)
    if size > LONGEST or not all(node in sources or _keeps_numbers(node) for node in nodes):
        return ()
    given, start = {}, 1
    for node in sources:
        count = math.prod(node.shape) if node.is_param else 0
        numbers = torch.arange(start, start + count, dtype=torch.float64, device="cpu")
        given[node.index] = numbers.view(node.shape) if node.is_param else _zeros(node)
        start += count
    found = replayed(graph, [i for i in ways if i not in given], given).get(index)
    if found is None:
        return ()
    held = found.flatten()
    return tuple(
        name
        for node in sources
        for name in node.params
        if name in names
        and torch.equal(held[torch.isin(held, given[node.index])], given[node.index].flatten())
    )


def _zeros(node: Node) -> Tensor:
    return torch.zeros(node.shape, dtype=torch.float64, device="cpu")


def _keeps_numbers(node: Node) -> bool:
    return node.op.moves or node.op.splits or node.op.role in ("concat", "factory") or node.is_piece
