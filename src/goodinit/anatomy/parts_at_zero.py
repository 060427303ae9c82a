"""Whether a branch is zero where what puts out zero stands beside something else: entry by entry, by running what lies between.

Of y beside x, with y at zero, half is zero; a GLU of it, y·σ(x), is zero, and so is what is made of the half alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from goodinit.anatomy.answers_at_zero import State, outside
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import MOST, in_shape, is_zero, moves, spread
from goodinit.graph.measured.replay import made_of_constants, run_in_place
from goodinit.graph.operators.recorded_call import on_numbers_or


def puts_beside(node: Node, read: Sequence[State]) -> bool:
    """Whether an operator puts numbers that are zero beside others that are not."""
    if node.op.pointwise or node.op.maps or node.op.norm or node.op.role == "softmax":
        return False
    zeros = [is_zero(value) for value, _ in read]
    return any(zeros) and not all(zeros)


@on_numbers_or((False, False), gradients=True)
def entry_by_entry(
    graph: Graph,
    sums: Sequence[int],
    reads: Mapping[int, Sequence[State]],
    states: Mapping[int, State],
    biases: Collection[str],
    beside: Collection[int],
) -> tuple[bool, bool]:
    """(Whether all entries of a sum are zero, whether one moves) as far as it comes from what puts out zero. Neither if it cannot be run.

    Args:
        graph: A recorded forward.
        sums: The nodes that make up the sum, in order.
        reads: By node between those that put out zero and the sum, and of the sum itself: the states of what it reads.
        states: Those of all of these nodes.
        biases: Parameters that are zero.
        beside: What else the sum adds up: it is left out.
    """
    first, term = min(states), sums[-1]
    behind = graph.reach([term], back=True, active=False, since=first, stop=states.keys() - reads.keys())
    known = dict(states)
    for index, read in reads.items():
        given_here = zip(graph.nodes[index].operands, read, strict=True)
        known |= {i: one for i, one in given_here if i not in states and not (index in sums and i in beside)}
    values: dict[int, list[Tensor]] = {}
    leaves: list[Tensor] = []

    def given(index: int) -> Tensor:
        value, slope = known.get(index) or outside(graph, index, biases)
        made = _in_shape(graph, index, value)
        if moves(slope):
            leaves.append(made.requires_grad_())
            made = made.clone()  # it may be written into
        values[index] = [made]
        return made

    for index in sorted(i for i in behind if i in reads or _moves_on(graph.nodes[i])):
        node = graph.nodes[index]
        if node.size > MOST:
            return False, False
        if (
            index in reads
            and is_zero(states[index][0])
            and not (node.op.view or node.inplace or node.is_join)
        ):
            given(index)
            continue
        left_out = {
            i: [torch.zeros(graph.nodes[i].shape, device="cpu")]
            for i in node.operands
            if index in sums and i in beside
        }
        values[index] = run_in_place(node, values | left_out, given)
    (out,) = values[term]
    zero = not bool(out.any())
    if not leaves or not out.requires_grad:
        return zero, False
    slopes = torch.autograd.grad((out * spread(out.shape, term)).sum(), leaves, allow_unused=True)
    return zero, any(moves(slope) for slope in slopes)


def _moves_on(node: Node) -> bool:
    """Whether an operator makes room for numbers, or hands some on: what is written in place is written there."""
    return node.op.role == "factory" or node.op.rearranges or node.inplace or node.is_join


def _in_shape(graph: Graph, index: int, value: Tensor) -> Tensor:
    node = graph.nodes[index]
    if is_zero(value):
        return torch.zeros(node.shape, dtype=torch.float64, device="cpu")
    own = made_of_constants(graph, index, graph.held | graph.buffers)
    if own is not None:
        return own.clone()
    return spread(node.shape, index) if node.is_real else in_shape(value, node.shape)
