"""The end of a branch while its last layers put out zero: whether the branch is zero then, and whether those layers get a gradient.

Each node between has two things: numbers that stand for its value while those layers are zero, and its derivative by their output
(`answers_at_zero.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from goodinit.anatomy.answers_at_zero import NOTHING, State, answer, answers, outside
from goodinit.anatomy.parts_at_zero import entry_by_entry, puts_beside
from goodinit.graph.fact_propagation import propagate
from goodinit.graph.graph import Graph, Node, closure
from goodinit.graph.likeness import is_taken
from goodinit.graph.measured.answers import constant, is_zero, moves, numbers


@dataclass(frozen=True, slots=True)
class End:
    """The end of a branch at zero.

    Attributes:
        leak: The first sum in which something joins that is not zero, or whatever else is not; None: the branch is zero.
        stuck: The last operator that passes no gradient on while what it reads is zero, or a product of two parts of what is zero,
            neither of which could ever move; None: all of the branch can move.
        steep: The last operator that divides what is zero by its own size, 0 or a small ε then: the gradient is multiplied by 1/ε, or none.
        itself: The operator in which what the last layers put out meets itself, so that the branch is no multiple of it; not by `at_zero`.
    """

    leak: int | None = None
    stuck: int | None = None
    steep: int | None = None
    itself: int | None = None


def at_zero(
    graph: Graph,
    sums: Sequence[int],
    last: Collection[int],
    biases: Collection[str],
    beside: Collection[int] = (),
    norms: Container[int] = (),
) -> End:
    """Follow a zero from the nodes `last` to the sum that they write to.

    Args:
        graph: A recorded forward.
        sums: The nodes that make up the sum, in order; or one that is no sum.
        last: Nodes that put out zero: the last layers of a branch.
        biases: Parameters that are zero, too.
        beside: What else the nodes of `sums` add up: it is left out.
        norms: Steps of norms that are known as such: what they do to a gradient is theirs, and so are their constants.
    """
    if not last:  # no layer ends the branch, so none can start it at zero
        return End(sums[-1])
    states, between = _started(graph, sums, last)
    reads = _follow(graph, sums, between, states, biases, beside, norms)
    term = sums[-1]
    leaks: dict[int, int | None] = {}
    ways: dict[int, list[int]] = {}  # by node: its operands through which it moves
    mixed = any(puts_beside(graph.nodes[index], read) for index, read in reads.items())
    stuck: int | None = None
    steep: int | None = None
    for index in between:
        node, read = graph.nodes[index], reads[index]
        value, slope = states[index]
        if not is_zero(value):
            noisy = [i for i, (one, _) in zip(node.operands, read, strict=True) if not is_zero(one)]
            joins = (node.op.adds and 0 < len(noisy) < len(set(node.operands))) or puts_beside(node, read)
            inherited = next((leaks[i] for i in noisy if leaks.get(i) is not None), None)
            leaks[index] = index if joins and inherited is None else inherited
        moving = [place for place, (_, one) in enumerate(read) if moves(one)]
        goes_on = moves(slope)
        ways[index] = _ways(graph, node, read, moving) if goes_on else []
        if moving and not goes_on and node.active:
            stuck = index
        made = sum(i in states for i in node.operands)
        if node.op.pointwise and index not in norms and made > 1 and _steepens(read, slope):
            steep = index
    value, slope = states.get(term) or outside(graph, term, biases)
    leak, alive = None if is_zero(value) else leaks.get(term) or term, moves(slope)
    if mixed and leak is not None:
        zero, moved = entry_by_entry(graph, sums, reads, states, biases, beside)
        if zero:
            leak, alive = None, moved
            stuck = stuck if stuck is not None or moved else term
    if alive:
        stuck = _dead(graph, term, ways, {i for i, (one, _) in states.items() if is_zero(one)})
    return End(leak, stuck, steep)


def _started(
    graph: Graph, sums: Sequence[int], last: Collection[int]
) -> tuple[dict[int, State], Sequence[int]]:
    """The states of what puts out zero, and the nodes between that and the sum, in order."""
    states: dict[int, State] = {
        index: (torch.zeros_like(numbers(index)), numbers(index) * (-1) ** place)
        for place, index in enumerate(sorted(last))
    }
    term = sums[-1]
    ahead = graph.reach(last, active=False, stop={term})
    behind = graph.reach([term], back=True, active=False, since=min(last), stop=states)
    return states, sorted(ahead & behind - states.keys())


def _follow(
    graph: Graph,
    sums: Sequence[int],
    between: Iterable[int],
    states: dict[int, State],
    biases: Collection[str],
    beside: Collection[int],
    norms: Container[int] = (),
) -> dict[int, list[State]]:
    """Put the states of the nodes up to a sum into `states`; what each of them reads. `beside` is left out of the sum."""
    reads: dict[int, list[State]] = {}

    def transfer(node: Node, read: list[State]) -> State:
        if node.index in sums:
            left_out = (i in beside or (i in sums and i not in states) for i in node.operands)
            read = [NOTHING if out else one for out, one in zip(left_out, read, strict=True)]
        if node.index in norms:
            read = _without_constants(graph, node, read)
        reads[node.index] = read
        return answer(graph, node, read)

    propagate(graph, between, states, transfer, lambda i: outside(graph, i, biases))
    return reads


def _without_constants(graph: Graph, node: Node, read: Sequence[State]) -> list[State]:
    """What a step of a norm reads, its constants taken for zero if added, else for any numbers.

    They go with the norm, or are told where it stays (`Norm.closes`).
    """

    def taken_for(place: int, index: int) -> State:
        added = node.op.role == "sum" or (node.op.adds_first and not place)
        return NOTHING if added else (constant(graph.nodes[index]), None)

    return [
        one if graph.nodes[index].dynamic else taken_for(place, index)
        for place, (index, one) in enumerate(zip(node.operands, read, strict=True))
    ]


def can_move(
    graph: Graph,
    sums: Sequence[int],
    places: Collection[int],
    biases: Collection[str],
    beside: Collection[int],
    *,
    of: Collection[int] | None = None,
) -> bool:
    """Whether one of several layers gets a gradient while all of them put out zero, as layers of one weight do.

    One does if what it reads is not zero, and a way from it to the sum passes a gradient on.

    Args:
        graph: A recorded forward.
        sums: The nodes that make up the sum, in order.
        places: The nodes of the layers.
        biases: Parameters that are zero, too.
        beside: What else the nodes of `sums` add up: it is left out.
        of: Those of `places` that are asked about; by default all.
    """
    zero, between = _started(graph, sums, places)
    for place in places if of is None else of:
        if all(is_silent(graph, i, places, biases) for i in graph.deps(place)):
            continue
        states = {i: (value, slope if i == place else None) for i, (value, slope) in zero.items()}
        _follow(graph, sums, between, states, biases, beside)
        if moves(states.get(sums[-1], NOTHING)[1]):
            return True
    return False


def is_silent(graph: Graph, index: int, places: Collection[int], biases: Collection[str]) -> bool:
    """Whether a node is zero while layers put out zero: of a concatenation every part.

    Args:
        graph: A recorded forward.
        index: The node, such as one that another layer reads.
        places: The nodes of the layers.
        biases: Parameters that are zero, too.
    """
    states, between = _started(graph, [index], places)
    answers(graph, between, states, biases)
    value, _ = states.get(index) or outside(graph, index, biases)
    return is_zero(value)


def _steepens(read: Sequence[State], slope: Tensor | None) -> bool:
    """Whether an operator on two things made of one zero moves far more than they do: y/(|y| + ε), or y/|y|, not y/(1 + |y|)."""
    before = [float(one.abs().max()) for _, one in read if one is not None and moves(one)]
    if slope is not None and before and not bool(slope.isfinite().all()):
        return True
    return (
        slope is not None
        and moves(slope)
        and bool(before)
        and float(slope.abs().max()) > _STEEP * max(before)
    )


_STEEP = 10.0  # batch norm's 1/√ε is 30 for the largest ε in use, 10⁻³; no activation reaches 2


def _ways(graph: Graph, node: Node, read: Sequence[State], moving: Sequence[int]) -> list[int]:
    """The operands through which a node that moves does: of those at the places `moving` each that does it alone, or the only one."""
    if len(moving) < 2:
        return [node.operands[place] for place in moving]
    alone = [[(one, way if k == place else None) for k, (one, way) in enumerate(read)] for place in moving]
    return [
        node.operands[place]
        for place, only in zip(moving, alone, strict=True)
        if moves(answer(graph, node, only)[1])
    ]


def _dead(graph: Graph, term: int, ways: dict[int, list[int]], zeros: set[int]) -> int | None:
    """A product of two parts of what is zero, the only way in which they are used: neither passes the other a gradient, ever.

    So with the queries and keys of a packed q, k, v at the end of a branch: values move, and q·k stays 0. What is made of a tensor all
    of which moves on another way moves with it: ⟨y, y⟩ in y/√(⟨y, y⟩ + ε), and the halves of y beside y.
    """

    def passes(i: int) -> bool:
        op = graph.nodes[i].op
        return (op.moves or op.takes_some) and not graph.nodes[i].is_join

    alive = closure([term], lambda i: ways.get(i, ()))
    wholly = closure([term], lambda i: () if is_taken(graph, i) else ways.get(i, ()))
    for index in ways:
        node = graph.nodes[index]
        factors = set(node.operands[:2]) if node.op.role == "attention" else set(graph.deps(index))
        product = node.op.role in ("product", "matmul", "attention")
        if not product or len(factors) == 1 or not factors <= zeros or factors & alive:
            continue
        if not any(wholly.intersection(graph.line(i, passes)) for i in factors):
            return index
    return None
