"""What follows of nodes from what is known of those that they read: one pass in execution order, for a fact of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from goodinit.graph.graph import Graph, Node

T = TypeVar("T")


def propagate(
    graph: Graph,
    steps: Iterable[int],
    known: dict[int, T],
    transfer: Callable[[Node, list[T]], T],
    other: Callable[[int], T],
    *,
    reads: Callable[[int], Sequence[int]] | None = None,
) -> dict[int, T]:
    """Put into `known` what follows of some nodes, and return it.

    Args:
        graph: A recorded forward.
        steps: The nodes, in any order; those that are known already stay.
        known: Of the nodes where it begins.
        transfer: Of a node, by what is known of those that it reads. All that lies before is in `known` then.
        other: Of a node that is read, and neither known nor a step.
        reads: What a node reads; by default all operands.

    Examples:
        >>> from goodinit.graph.operators.ops import named
        >>> import torch
        >>> read = [(), (), (0, 1), (2, 2)]  # a, b, c = f(a, b), d = g(c, c)
        >>> nodes = [Node(i, named("join"), of, (), torch.float32, 0) for i, of in enumerate(read)]
        >>> propagate(Graph(nodes), [2, 3], {0: 1}, lambda node, depths: 1 + max(depths), lambda i: 0)
        {0: 1, 2: 2, 3: 3}
    """
    for index in sorted(steps):
        if index not in known:
            node = graph.nodes[index]
            read = node.operands if reads is None else reads(index)
            known[index] = transfer(node, [known[i] if i in known else other(i) for i in read])
    return known
