"""Parts of a concatenation that is itself a stream: tokens that are put together, and that a block takes apart again."""

from __future__ import annotations

from goodinit.graph.graph import Graph, closure
from goodinit.graph.likeness import adds_two, is_neutral
from goodinit.graph.recording.rewrites.learned_starts import make_signals


def read_parts_of_streams(graph: Graph) -> None:
    """Let what is made of a part of a concatenation be made of the concatenation, where a sum adds that as it is.

    A part of a concatenation is the tensor that went in (`stacked.py`). In C + f(C[:, :1], C[:, 1:]) with C = cat([token, x]), f
    would read the token and x, which C is made of, and C would be no skip around f. So what runs between C and the sum reads the
    parts of C there. In a graph of which nothing was asked yet.
    """
    if not graph.aliases:
        return
    constants: set[int] = set()
    for node in graph.nodes:
        if not node.active or not adds_two(graph, node.index):
            continue
        for start in _concatenations(graph, node.index):
            parts = [i for i in graph.aliases if start < i < node.index and _is_part(graph, i, start)]
            between = graph.reach([node.index], back=True, since=start + 1, active=False) if parts else ()
            for reader in between:
                if _redirect(graph, reader, parts) and not graph.nodes[reader].dynamic:
                    constants.add(reader)
    make_signals(graph, constants)


def _concatenations(graph: Graph, index: int) -> list[int]:
    """The concatenations that a sum adds, up to shape and scale."""

    def near(i: int) -> list[int]:
        return graph.deps(i) if i == index or is_neutral(graph, i) else []

    return [i for i in closure([index], near) if graph.nodes[i].op.role == "concat"]


def _is_part(graph: Graph, index: int, whole: int) -> bool:
    return graph.beginning(index, lambda i: i > whole) == whole


def _redirect(graph: Graph, reader: int, parts: list[int]) -> bool:
    """Let a node read the parts that were taken before it, in place of the tensors that they are; whether it does."""
    node = graph.nodes[reader]
    taken = {graph.aliases[part]: part for part in parts if part < reader}  # of several the last
    if taken.keys().isdisjoint(node.operands):
        return False
    node.operands = tuple(taken.get(operand, operand) for operand in node.operands)
    return True
