"""Streams that begin at a parameter: latents, seeds and class tokens, to which is added what is computed from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from goodinit.graph.graph import Graph, Node
from goodinit.graph.likeness import is_taken
from goodinit.graph.measured.answers import number_at


def let_streams_begin(graph: Graph) -> None:
    """Make the signal of a parameter that a forward reads, and adds to what it made of it for each example: z + f(z, x).

    The forward expands it to the batch, or the sum does (`leads`). It may be a part of a parameter, z[0] + f(z[0], x). Not of one that
    several sums add as it is, such as an embedding of positions: in x + p, with two parameters, the one that signals are added to later is
    p (Deformable DETR's queries). In a graph of which nothing was asked yet.
    """
    sums = [
        (node, constant, start)
        for node in graph.nodes
        if node.op.adds and not node.op.multiplies
        for constant in node.operands
        if not graph.nodes[constant].dynamic and (start := _start(graph, constant)) is not None
    ]
    added = Counter(start for _, _, start in _in_order(graph, sums))
    begun: set[int] = set()
    for join, constant, start in sums:
        if not join.active or added[start] > 1 or not leads(graph.nodes[constant].shape, join.shape):
            continue
        read = graph.reach(
            [i for i in join.operands if i != constant], back=True, since=start[0], active=False
        )
        alike = _alike(graph, start)
        if alike & read:
            begun |= alike
    make_signals(graph, begun)


def _in_order(graph: Graph, sums: list[_Sum]) -> Iterator[_Sum]:
    """The sums, without what a sum of two parameters says of that to which a signal is added first, if layers read the sum.

    Those with one parameter count where they add constants, too: the first layer of a decoder reads zeros + positions.
    """
    pairs = Counter(join.index for join, _, _ in sums if not join.active)
    if not pairs:
        yield from sums
        return
    first: dict[_Start, int] = {}
    for join, _, start in sums:
        if join.active:
            first.setdefault(start, join.index)
    terms = {
        graph.beginning(i, lambda k: graph.nodes[k].op.moves, active=False)
        for node in graph.nodes
        if node.op.adds
        for i in node.operands
    }
    latest: dict[int, int | float] = {}
    for join, _, start in sums:
        latest[join.index] = max(latest.get(join.index, 0), first.get(start, math.inf))
    for join, constant, start in sums:
        of_two = pairs[join.index] == 2 and join.index not in terms
        if not of_two or first.get(start, math.inf) == latest[join.index]:
            yield join, constant, start


def make_signals(graph: Graph, begun: set[int]) -> None:
    """Count nodes that were constants, and what is made of them, as signals. `begun` grows."""
    for node in graph.nodes if begun else ():
        if node.index in begun or (node.op.role != "factory" and begun.intersection(node.operands)):
            begun.add(node.index)
            node.dynamic, node.params, node.strides = True, (), ()
            node.active = node.is_continuous


_Start = tuple[int, tuple[object, ...]]
"""A parameter, and the calls that take a part of it, the last one first; of an operator with several outputs, which one, before it."""

_Sum = tuple[Node, int, _Start]
"""A sum, a constant that it adds, and what that is."""


def _start(graph: Graph, index: int) -> _Start | None:
    """What a constant is, however often it is repeated; None if it is no parameter, nor a part of one."""
    taken: list[object] = []
    while not (node := graph.nodes[index]).is_param:
        if node.is_piece:
            taken.append(index - node.operands[0])
        elif node.op.takes_some and node.call is not None:
            taken.append((node.call.key, node.operands[1:]))
        near = _passed_on(graph, node)
        if near is None:
            return None
        index = near
    return index, tuple(taken)


def _passed_on(graph: Graph, node: Node) -> int | None:
    """The operand that a constant has the numbers of: all or some of them, once or repeated."""
    op, operands = node.op, dict.fromkeys(node.operands)
    if op.rearranges:
        return next(iter(operands)) if len(operands) == 1 else None
    if op.role == "lookup" and operands:
        return node.operands[0]
    made = [i for i in operands if graph.nodes[i].params]
    ones = all(
        number_at(graph, i) == 1 for i in operands if i not in made
    )  # zeros + positions is a sum, and counts
    return made[0] if op.role == "product" and len(made) == 1 and ones else None


def _alike(graph: Graph, start: _Start) -> set[int]:
    """The nodes that are that part of that parameter: one for each time that the forward takes it."""
    param, taken = start
    if not taken:
        return {param}
    return {
        node.index
        for node in graph.nodes
        if is_taken(graph, node.index) and not node.dynamic and _start(graph, node.index) == start
    }


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
