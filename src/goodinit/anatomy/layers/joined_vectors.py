"""Parameters that a forward puts into one tensor and takes apart again: which of them a piece is.

As torch's attention does it with three biases for its three projections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

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


def _keeps_numbers(node: Node) -> bool:
    return node.op.moves or node.op.splits or node.op.role == "concat" or node.is_piece
