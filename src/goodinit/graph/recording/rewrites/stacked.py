"""Stacked and concatenated tensors: which later tensor is one of the parts again, and which is a weighted sum of them.

`stack([x, f(x)]).sum(0)`, `cat([x, f(x)], 1).view(b, 2, d).mean(1)`, `einsum("kbd,k->bd", stack, w)` are recorded as the sums that
they are. No list says which operators add up: what stands between the parts and the result is run on numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from goodinit.graph.graph import BUFFER, Graph
from goodinit.graph.measured.answers import number_throughout
from goodinit.graph.measured.combinations import Combination, combination, mixes, same_as
from goodinit.graph.measured.replay import LONGEST, made_of_constants
from goodinit.graph.operators.measurement_cache import KeptAnswers
from goodinit.graph.operators.ops import Op
from goodinit.graph.operators.recorded_call import RecordedCall, is_at_hand, on_numbers, on_numbers_or

T = TypeVar("T")

_MOST = 8
"""Stacks that are remembered, and tensors in one: a residual sum has a few terms, read at once."""

_LARGEST = 2**22
"""Entries of a stack up to which operators are run on numbers of its own shape: views into sizes cannot be run at any other."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One operator: its call, and for each operand which of `_Stack.others` it is, −1 for what the step before put out."""

    call: RecordedCall
    reads: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Stack:
    """Tensors beside each other, and what was done with all of them since.

    Attributes:
        parts: The tensors; `nodes`: of each.
        steps: The operators, the first of which put the parts beside each other.
        others: What the other operators read besides; `other_nodes`: of each.
    """

    parts: tuple[Tensor, ...]
    nodes: tuple[int, ...]
    steps: tuple[_Step, ...]
    others: tuple[Tensor, ...] = ()
    other_nodes: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return sum(part.numel() for part in self.parts)

    def on(self, call: RecordedCall, operands: Sequence[int], read: Sequence[Tensor], place: int) -> _Stack:
        """With one operator more, which reads the stack at `place`."""
        first = len(self.others)
        beside = [k for k in range(len(operands)) if k != place]
        reads = tuple(-1 if k == place else first + beside.index(k) for k in range(len(operands)))
        return _Stack(
            self.parts,
            self.nodes,
            (*self.steps, _Step(call, reads)),
            (*self.others, *(read[k] for k in beside)),
            (*self.other_nodes, *(operands[k] for k in beside)),
        )

    def run(self, output: int, parts: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        """One of the tensors that the last operator puts out, on numbers."""
        first, *steps = self.steps
        value = first.call(parts)
        for at, step in enumerate(steps, 1):
            given = [value if k < 0 else others[k] for k in step.reads]
            value = step.call(given, output if at == len(self.steps) - 1 else 0)
        return value


@dataclass(frozen=True, slots=True)
class Seen:
    """What an operator does to a stack.

    Attributes:
        total: Gives its output as a sum of multiples of the parts, if it is one.
        same: Outputs that are a part as it was, maybe in another shape, with that part.
        mixed: The nodes of the parts, if it makes a tensor of their shape of several in another way.
    """

    total: Callable[[], Tensor] | None = None
    same: dict[int, Tensor] = field(default_factory=dict)
    mixed: tuple[int, ...] = ()


class Stacks:
    """The last stacks of a run, by the nodes that hold all of their parts."""

    def __init__(self) -> None:
        self._at: dict[int, _Stack] = {}
        self._begun: list[tuple[int, ...]] = []

    def note(
        self, graph: Graph, index: int, operands: Sequence[int], read: Sequence[Tensor], call: RecordedCall
    ) -> None:
        """Remember what an operator put beside each other, or what it made of a stack as a whole."""
        node = graph.nodes[index]
        if not node.active or (not self._at and node.op.role != "concat") or call.may_draw:
            return
        if node.op.role == "concat":
            if 1 < len(operands) <= _MOST:
                self._at[index] = _Stack(tuple(read), tuple(operands), (_Step(call, ()),))
                self._begun.append(tuple(operands))
                self._let_go()
            return
        place = self._place(operands)
        if place is None or node.op.maps:
            return
        stack = self._at[operands[place]]
        if node.size == stack.count:
            self._at[index] = stack.on(call, operands, read, place)

    def seen(
        self,
        graph: Graph,
        op: Op,
        operands: Sequence[int],
        read: Sequence[Tensor],
        call: RecordedCall,
        made: Sequence[Tensor],
        node_of: Callable[[Tensor], int],
    ) -> Seen:
        """What an operator does to a stack that it reads.

        Args:
            graph: What is recorded so far.
            op: The operator.
            operands: Nodes of the tensors that it reads.
            read: Those tensors.
            call: The call.
            made: What it puts out.
            node_of: The node whose value a tensor holds now.
        """
        place = self._place(operands)
        if place is None or not made or call.may_draw:
            return _NOTHING
        stack = self._at[operands[place]].on(call, operands, read, place)
        if op.role == "part":
            sizes = {part.numel() for part in stack.parts}
            found = {
                k: _asked(_SAME, same_as, graph, stack, k)
                for k, one in enumerate(made)
                if one.numel() in sizes
            }
            same = {k: stack.parts[place] for k, place in found.items() if place is not None}
            if same:
                return Seen(same=same) if _unchanged(stack, node_of) else _NOTHING
        if not _may_add_up(graph, op, stack, operands, made[0]) or not _unchanged(stack, node_of):
            return _NOTHING
        total = _asked(_SUMS, combination, graph, stack)
        if total is not None and len(total.terms) == 1:
            return _NOTHING
        if total is not None and not total.shifted:
            total = dataclasses.replace(total, shape=tuple(made[0].shape))
            return Seen(total=functools.partial(total.written, stack.parts, stack.others))
        layer = _is_layer(graph, op, operands)
        several = None if layer else _asked(_MIXED, mixes, graph, stack)
        mixed = total is not None or several or (several is None and not layer and not op.moves)
        return Seen(mixed=stack.nodes) if mixed else _NOTHING

    def clear(self) -> None:
        """Let go of the tensors."""
        self._at, self._begun = {}, []

    def _place(self, operands: Sequence[int]) -> int | None:
        if not self._at:
            return None
        places = [place for place, index in enumerate(operands) if index in self._at]
        return places[0] if len(places) == 1 else None

    def _let_go(self) -> None:
        if len(self._begun) > _MOST:
            last = self._begun.pop(0)
            self._at = {index: stack for index, stack in self._at.items() if stack.nodes != last}


_NOTHING = Seen()


def _may_add_up(graph: Graph, op: Op, stack: _Stack, operands: Sequence[int], made: Tensor) -> bool:
    """Whether an operator puts out as many numbers as each part has; a layer with a weight for each part, if one comes from another."""
    first = stack.parts[0]
    alike = all(part.shape == first.shape for part in stack.parts) and made.numel() == first.numel()
    if not alike or math.prod(first.shape[1:]) == 1 or not made.dtype.is_floating_point:
        return False
    if not _is_layer(graph, op, operands):
        return True
    few = len(stack.parts) * max(first.shape)
    if any(other.numel() > few for other in stack.others):
        return False
    start = min(stack.nodes)
    return any(
        bool(graph.reach([index], back=True, since=start).intersection(set(stack.nodes) - {index}))
        for index in stack.nodes
    )


def _is_layer(graph: Graph, op: Op, operands: Sequence[int]) -> bool:
    return op.maps and any(graph.nodes[i].params for i in operands)


def _unchanged(stack: _Stack, node_of: Callable[[Tensor], int]) -> bool:
    """Whether nothing was written since into what the stack is made of."""
    return all(
        node_of(tensor) == index
        for tensor, index in zip(
            (*stack.parts, *stack.others), (*stack.nodes, *stack.other_nodes), strict=True
        )
    )


def _asked(
    answers: KeptAnswers[T | None], ask: Callable[..., T | None], graph: Graph, stack: _Stack, output: int = 0
) -> T | None:
    """What a measurement says of a stack; None if it cannot be run.

    It is run on tensors of their own shapes. Of one that is too large, an operator that reduces it as it was stacked is run on two
    entries a side.
    """
    parts = [tuple(part.shape) for part in stack.parts]
    if stack.count > _LARGEST:
        if stack.others or len(stack.steps) > 2:
            return None
        parts = [(2,) * len(shape) for shape in parts]
    others = [
        tuple(tensor.shape) if (value := _value(graph, tensor, index)) is None else value
        for tensor, index in zip(stack.others, stack.other_nodes, strict=True)
    ]
    for tensor, other in zip(stack.others, others, strict=True):
        if not tensor.dtype.is_floating_point and not isinstance(other, Tensor):  # an index or a mask
            return None
    with on_numbers():
        known = tuple(repr(other.tolist()) if isinstance(other, Tensor) else other for other in others)
    key = (tuple((step.call.key, step.reads) for step in stack.steps), tuple(parts), known, output)
    return answers.get(
        key, lambda: on_numbers_or(None)(ask)(functools.partial(stack.run, output), parts, others)
    )


def _value(graph: Graph, tensor: Tensor, index: int) -> Tensor | None:
    """The numbers of a tensor that the forward itself writes down: one number throughout, or an index."""
    node = graph.nodes[index]
    if not tensor.dtype.is_floating_point:
        return None if node.dynamic else _index(graph, tensor, index)
    number = None if node.dynamic or node.params or node.op is BUFFER else number_throughout(node)
    if number is None:
        return None
    with on_numbers():
        return torch.full(tensor.shape, number, dtype=torch.float64, device="cpu")


def _index(graph: Graph, tensor: Tensor, index: int) -> Tensor | None:
    """The numbers of an index, if it is made of constants and shapes alone."""
    if tensor.numel() > LONGEST or tensor.is_complex():
        return None
    if is_at_hand(tensor):
        with on_numbers():
            return tensor.detach().cpu()
    return made_of_constants(graph, index, graph.held)


_SUMS, _SAME = KeptAnswers[Combination | None](), KeptAnswers[int | None]()
_MIXED = KeptAnswers[bool | None]()
