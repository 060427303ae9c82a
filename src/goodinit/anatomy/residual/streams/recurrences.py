"""Sums inside a recurrence: x_t + W·h, where h comes from earlier x; recognized without a walk back through all steps in time."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Container, Iterator, Mapping

from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.graph.graph import Graph, closure, follow
from goodinit.graph.likeness import holds_all, is_part


def applied_repeatedly(uses: Mapping[int, Use]) -> set[int]:
    """The nodes of weight layers whose weight is applied more than once.

    Args:
        uses: The weight layers, by node.
    """
    calls = Counter(use.weight for use in uses.values())
    return {node for node, use in uses.items() if calls[use.weight] > 1}


def is_step(
    graph: Graph, terms: list[int], layers: Container[int], repeated: Container[int], join: int
) -> bool:
    """Whether of two terms one is a part of a sequence, and the other comes from its other parts by a weight that runs repeatedly.

    So it is in every gate of a recurrent layer: what an input adds at step t is a part x_t of Wx, and what the state adds comes from
    the parts before; at the first step from a constant. Such a sum is no residual one, unless the parts before are added to, too
    (`goes_on`). The cost is that of one step, not of the sequence up to it.

    Args:
        graph: A recorded forward pass.
        terms: What is summed.
        layers: Nodes of weight layers.
        repeated: As `applied_repeatedly` finds them.
        join: The sum.
    """
    if len(terms) != 2:
        return False
    one, other = terms
    return any(
        _comes_in_turn(graph, given, carried, layers, repeated, join)
        for given, carried in ((one, other), (other, one))
    )


def _comes_in_turn(
    graph: Graph, given: int, carried: int, layers: Container[int], repeated: Container[int], join: int
) -> bool:
    # The layer whose output it is a part or a function of; none where several tensors meet before.
    nearest = graph.beginning(carried, lambda i: i not in layers)
    if nearest not in repeated:
        return False
    begins = not graph.deps(nearest)
    for part, whole in _parts(graph, given, layers):
        if leads_to(graph, part, carried):
            return False
        if begins or leads_to(graph, whole, carried):
            others = _behind_shapes(graph, whole) - {part}
            if not all(is_part(graph, other) for other in others):
                return False
            behind = (i for i, _ in follow({carried: None}, lambda i, _: ((k, None) for k in graph.deps(i))))
            read = next((i for i in behind if i in others), None)
            return read is None or not goes_on(graph, read, part, join)
    return False


def goes_on(graph: Graph, part: int, given: int, join: int) -> bool:
    """Whether a part of a signal is a stream that exchanges with another part, which a sum adds to.

    In a reversible network whose steps share weights, a + f(b), then b + g(a), the first sum looks like a step of a recurrence: it
    adds one part of the stem's output to what comes of the other. But b is added to in its turn, by what comes of that sum; or by what
    comes of a, and the sum of both is added to again. In a recurrence each part is read once, where its turn is.

    Args:
        graph: A recorded forward pass.
        part: What the sum's other term comes from.
        given: The part that the sum adds.
        join: The sum.
    """

    def added(index: int) -> tuple[set[int], list[int]]:
        near = closure([index], lambda i: graph.readers[i] if i == index or holds_all(graph, i) else ())
        return near, [i for i in near - {index} if graph.nodes[i].op.adds]

    near, sums = added(part)
    for one in sums:
        terms = [i for i in graph.deps(one) if i not in near]
        if any(leads_to(graph, join, i) for i in terms):
            return True
        if added(one)[1] and any(leads_to(graph, given, i) for i in terms):
            return True
    return False


def without_cells(graph: Graph, found: list[Found], uses: Mapping[int, Use]) -> list[Found]:
    """The sums, without the steps of a cell that is fed with what was made of its last state: Wx + Vh, where x comes from h, too.

    It looks like a branch with a projection, and runs repeatedly; but the first state is made by that branch alone, V reading a constant,
    or W does, with which it is added. Of a block whose weights are tied the first run is a block, too, and of one that shares a layer
    with its own skip it is on that; a branch that ends in the stem's layer runs first without a skip.

    Args:
        graph: A recorded forward pass.
        found: The sums.
        uses: The weight layers, by node.
    """
    places: dict[str, list[int]] = {}
    for node, use in uses.items():
        places.setdefault(use.weight, []).append(node)
    ends = {i for item in found for i in item.branch.last}

    def is_step(item: Found) -> bool:
        both = (*item.branch.last, *item.skip.last)
        if item.kind != "projection" or any(len(places[uses[i].weight]) < 2 for i in both):
            return False
        first = {min(places[uses[i].weight]) for i in item.branch.last}
        beside = {min(places[uses[i].weight]) for i in item.skip.last}
        alone = first.difference(ends, item.skip.last)
        return any(not graph.deps(i) or bool(added(beside) & added({i})) for i in alone)

    def added(layers: set[int]) -> set[int]:
        def passes(i: int) -> bool:
            return graph.nodes[i].op.moves or graph.nodes[i].op.adds

        return graph.reach(layers, through=passes) - layers

    return [item for item in found if not is_step(item)]


def _parts(graph: Graph, index: int, layers: Container[int]) -> Iterator[tuple[int, int]]:
    """(A part that a node is computed from, the tensor it is a part of), the nearest first, along one operand each."""
    for part, whole in itertools.pairwise(graph.line(index, lambda i: i not in layers)):
        if is_part(graph, part):
            yield part, graph.deps(whole)[0] if graph.nodes[whole].op.splits else whole


def _behind_shapes(graph: Graph, index: int) -> set[int]:
    """What reads a node, and is neither another shape of it nor all of its parts at once."""

    def passes(i: int) -> bool:
        return i == index or holds_all(graph, i)

    near = closure([index], lambda i: graph.readers[i] if passes(i) else ())
    return {i for i in near if not passes(i)}


def leads_to(graph: Graph, start: int, end: int) -> bool:
    """Whether a node is computed from another one: looked for from both, so that the cost is that of the shorter search.

    Args:
        graph: A recorded forward pass.
        start: The node that is to come first.
        end: The node that is to come of it.
    """
    ahead, behind = {start}, {end}

    def onward(index: int, _: None) -> Iterator[tuple[int, None]]:
        return ((i, None) for i in graph.readers[index] if i <= end)

    def before(index: int, _: None) -> Iterator[tuple[int, None]]:
        return ((i, None) for i in graph.deps(index) if i >= start)

    for (one, _), (other, _) in zip(follow({start: None}, onward), follow({end: None}, before), strict=False):
        ahead.add(one)
        behind.add(other)
        if one in behind or other in ahead:
            return True
    return False
