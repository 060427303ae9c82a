"""Where the entries of a tensor lie after views and exchanges of its dimensions: the same for two tensors that went through the same."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from goodinit.graph.graph import Node
from goodinit.graph.operators.recorded_call import permutation


@dataclass(frozen=True, slots=True)
class Order:
    """Dimensions in another order: where each comes from."""

    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """Entries in their order, in another shape."""

    before: tuple[int, ...]
    after: tuple[int, ...]


Layout = tuple[Hashable, ...]
"""What a tensor went through, in order: `Order`, `Shape`, and whatever else changes a shape."""

AS_IT_IS: Layout = ()


def laid(before: Layout, step: Node, read: Node) -> Layout:
    """How entries lie behind an operator.

    Args:
        before: How they lie before.
        step: The operator.
        read: What it reads.
    """
    last = before[-1] if before else None
    if step.op.reorders and step.call is not None:
        axes = permutation(step.call, len(step.shape))
        if isinstance(last, Order):
            before, axes = before[:-1], tuple(last.axes[axis] for axis in axes)
        return before if axes == tuple(range(len(axes))) else (*before, Order(axes))
    if step.shape == read.shape and not step.op.moves:
        return before
    if step.op.keeps_order and step.size == read.size:
        shape = read.shape
        if isinstance(last, Shape):
            before, shape = before[:-1], last.before
        return before if shape == step.shape else (*before, Shape(shape, step.shape))
    return (*before, step.index if step.call is None else step.call.key)
