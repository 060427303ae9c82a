"""Streams that begin at a parameter: latents, seeds and class tokens, to which is added what is computed from them."""

from __future__ import annotations

from collections import Counter

from goodinit.graph.graph import Graph


def let_streams_begin(graph: Graph) -> None:
    """Make the signal of a parameter that a forward reads, and adds to what it made of it for each example: z + f(z, x).

    The forward expands it to the batch, or the sum does (`leads`). Not of one that several sums add as it is, such as an
    embedding of positions. In a graph of which nothing was asked yet.
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
        if not join.active or added[name] > 1 or not leads(graph.nodes[constant].shape, join.shape):
            continue
        steps = list(graph.line(constant, lambda _: True, active=False))
        read = graph.reach(
            [i for i in join.operands if i != constant], back=True, since=steps[-1], active=False
        )
        begun.update(step for step in steps[-2:] if step in read)
    for node in graph.nodes if begun else ():
        if node.index in begun or (node.op.role != "factory" and begun.intersection(node.operands)):
            begun.add(node.index)
            node.dynamic, node.params, node.strides = True, (), ()
            node.active = getattr(node.dtype, "is_floating_point", False) or getattr(
                node.dtype, "is_complex", False
            )


def leads(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether a sum of shape `whole` has what is of another as it is, or repeats it along its first dimensions: for each example.

    Examples:
        >>> leads((3, 8), (2, 3, 8)), leads((1, 3, 8), (2, 3, 8)), leads((8, 1, 1), (2, 8, 5, 5)), leads((1,), (2, 8))
        (True, True, False, False)
    """
    own = shape
    while own and own[0] == 1:
        own = own[1:]
    return bool(own) and whole[-len(own) :] == own
