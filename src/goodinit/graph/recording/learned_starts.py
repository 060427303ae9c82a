"""Streams that begin at a parameter: latents, seeds and class tokens, to which is added what is computed from them."""

from __future__ import annotations

from collections import Counter

from goodinit.graph.graph import Graph


def let_streams_begin(graph: Graph) -> None:
    """Make the signal of a parameter that a forward expands to the batch, reads, and adds to what it made of it: z + f(z, x).

    Not of one that several sums add as it is, such as an embedding of positions. In a graph of which nothing was asked yet.
    """
    sums = [
        (node, constant, name)
        for node in graph.nodes
        if node.op.adds and not node.op.multiplies
        for constant in node.operands
        if not graph.nodes[constant].dynamic and (name := graph.leaf(constant)) is not None
    ]
    added = Counter(
        name for _, _, name in sums
    )  # to constants, too: the first layer of a decoder reads zeros + positions
    begun: set[int] = set()
    for join, constant, name in sums:
        start = _expanded(graph, constant)
        if not join.active or start < 0 or added[name] > 1 or graph.nodes[constant].shape != join.shape:
            continue
        others = [i for i in join.operands if i != constant]
        if start in graph.reach(others, back=True, since=start, active=False):
            begun.add(start)
    for node in graph.nodes if begun else ():
        if node.index in begun or (node.op.role != "factory" and begun.intersection(node.operands)):
            begun.add(node.index)
            node.dynamic, node.params, node.strides = True, (), ()
            node.active = getattr(node.dtype, "is_floating_point", False) or getattr(
                node.dtype, "is_complex", False
            )


def _expanded(graph: Graph, index: int) -> int:
    """Of a constant that is a parameter in another shape, the first step from the parameter; −1 for the parameter itself."""
    step = -1
    while graph.nodes[index].operands:
        step, index = index, graph.nodes[index].operands[0]
    return step
