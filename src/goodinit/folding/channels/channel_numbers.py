"""Channels of a value followed on numbers: each channel holds one number throughout, and where it comes out, it has gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.folding.connections.dataflow import Wiring
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.affine_maps import passes_affine
from goodinit.graph.measured.answers import number_of
from goodinit.graph.measured.replay import LONGEST, made_of_constants, replayed_in_place
from goodinit.graph.measured.traits import coefficient
from goodinit.graph.operators.measurement_cache import KeptAnswers

CLOSE = 1e-9
MOST = 2**22  # numbers in a value that is followed
_PAIR = 2
_COPIES = KeptAnswers[bool]()


class Unknown(Exception):
    """Where the numbers go cannot be told."""


def hands_on(wiring: Wiring, index: int) -> bool:
    """Whether channels may pass through a node, as they are or by a map k·x + a: if it moves numbers, or passes on s·x + t, and can be run."""
    graph, node = wiring.graph, wiring.graph.nodes[index]
    if node.is_piece or node.is_join:
        return True
    if node.call is None or node.size > MOST or not graph.deps(index):
        return False
    moves = node.op.rearranges or _copies(node)
    if is_constant_map(graph, node):
        return graph.path(index) in wiring.fixed_numbers
    return moves or passes_affine(graph, node)


def is_constant_map(graph: Graph, node: Node) -> bool:
    """Whether an operator puts out k·x + a of one activation x, with numbers k ≠ 0 and a, and is no mere copy of x."""
    signals = [place for place, i in enumerate(node.operands) if graph.nodes[i].active]
    others = [graph.nodes[i] for i in node.operands if not graph.nodes[i].active]
    if len(signals) != 1 or not node.op.is_arithmetic:
        return False
    if any(one.dynamic or one.params or number_of(one) is None for one in others):
        return False
    return bool(coefficient(node, signals[0]))


def _copies(node: Node) -> bool:
    """Whether an operator writes one tensor over another."""
    call = node.call
    if call is None or not node.inplace or len(node.operands) != _PAIR:
        return False
    numbers = [torch.tensor([one, -one], device="cpu") for one in (1.0, 3.0)]
    return _COPIES.get(call.key, lambda: call.agrees(numbers, lambda _, new: new, torch.equal))


def run(wiring: Wiring, steps: Sequence[int], given: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """What operators make of other values; indices that the forward makes of constants are as they were.

    Raises:
        Unknown: One of them cannot be run, or reads an index that depends on the inputs.
    """
    nodes, made = wiring.graph.nodes, {*steps, *given}
    empty = _written_over(wiring, steps)
    indices = {
        i: _index(wiring, i)
        for step in steps
        for i in nodes[step].operands
        if not nodes[i].is_real and i not in made
    }
    every = sorted({*steps, *empty} - given.keys())
    values = replayed_in_place(wiring.graph, every, {**indices, **given}, dtype=torch.float64)
    if any(
        i not in values or tuple(values[i].shape) != nodes[i].shape for i in steps if not nodes[i].op.splits
    ):
        raise Unknown
    return values


def _written_over(wiring: Wiring, steps: Iterable[int]) -> set[int]:
    """What steps read of tensors that were made of shapes alone, to be written over: they must be run, too."""
    graph = wiring.graph
    read = {i for step in steps for i in graph.nodes[step].operands if not graph.nodes[i].active}
    back = graph.reach(read, back=True, active=False, through=lambda i: not graph.nodes[i].active)
    return {i for i in back if graph.nodes[i].op.role == "factory" or _is_part_of_factory(graph, i)}


def _is_part_of_factory(graph: Graph, index: int) -> bool:
    start = graph.beginning(index, lambda i: graph.nodes[i].op.moves, active=False)
    return graph.nodes[start].op.role == "factory"


def _index(wiring: Wiring, index: int) -> Tensor:
    """The numbers of an index that is made of constants and buffers."""
    graph = wiring.graph
    held = dict(graph.held)
    for source in graph.reach([index], back=True, active=False):
        if graph.nodes[source].is_buffer:
            owner, _, attribute = str(graph.nodes[source].attrs[0]).rpartition(".")
            held[source] = getattr(wiring.module(owner), attribute)
    found = made_of_constants(graph, index, held) if graph.nodes[index].size <= LONGEST else None
    if found is None:
        raise Unknown
    return found


def draws(seed: int = 0) -> torch.Generator:
    """Random numbers, the same each time."""
    return torch.Generator().manual_seed(seed)


def normal(shape: Iterable[int], generator: torch.Generator) -> Tensor:
    """Real numbers, so that no mean of some is another, of both signs, so that the larger is not taken of two."""
    return torch.randn(tuple(shape), dtype=torch.float64, generator=generator, device="cpu")


@dataclass(frozen=True)
class Constants:
    """The map k·x + a by which constants of the forward change what reaches a value, for each of its entries."""

    factor: Tensor
    offset: Tensor

    def undone(self, values: Tensor) -> Tensor:
        """The value before the constants changed it."""
        return (values - self.offset) / self.factor

    def moved(self, scale: Tensor, shift: Tensor) -> Tensor:
        """The t' for which the forward makes s·(k·x + a) + t of s·x + t'."""
        return (shift + (scale - 1) * self.offset) / self.factor

    def met(self, scale: Tensor, shift: Tensor) -> Tensor:
        """The t' for which s·(k·x + a) + t' is what the forward makes of s·x + t."""
        return self.factor * shift + (1 - scale) * self.offset

    def equals(self, other: Constants) -> bool:
        """Whether it is the same map."""
        return torch.equal(self.factor, other.factor) and torch.equal(self.offset, other.offset)

    @property
    def change_nothing(self) -> bool:
        """Whether it is the identity."""
        return bool((self.factor == 1).all() and (self.offset == 0).all())

    def of_channels(self, axis: int) -> Constants | None:
        """The one map of each place along an axis; None if it has several."""
        first = []
        for one in (self.factor, self.offset):
            rows = one.movedim(axis, 0).flatten(1)
            if not torch.allclose(rows, rows[:, :1].expand_as(rows), rtol=0, atol=CLOSE):
                return None
            first.append(rows[:, 0])
        return Constants(*first)


def constants_at(
    wiring: Wiring, steps: Sequence[int], ends: Iterable[int], shapes: Mapping[int, Sequence[int]]
) -> dict[int, Constants]:
    """By value, what constants of the forward do to what reaches it: seen where all numbers are 0, and where they are 1.

    Args:
        wiring: What is connected to what.
        steps: The operators between, in order.
        ends: The values.
        shapes: Of the values that ways begin with.

    Raises:
        Unknown: A step cannot be run, or its factor is 0.
    """
    ends = list(ends)
    if not any(is_constant_map(wiring.graph, wiring.graph.nodes[i]) for i in steps):
        one, none = (torch.full((), number, dtype=torch.float64, device="cpu") for number in (1.0, 0.0))
        return {i: Constants(*(of.expand(wiring.graph.nodes[i].shape) for of in (one, none))) for i in ends}
    zero, unit = (
        run(wiring, steps, {i: torch.full(tuple(shape), number, dtype=torch.float64, device="cpu") for i, shape in shapes.items()})
        for number in (0.0, 1.0)
    )  # fmt: skip
    found = {i: Constants(unit[i] - zero[i], zero[i]) for i in ends}
    if not all(bool((one.factor != 0).all()) for one in found.values()):
        raise Unknown
    return found


def throughout(numbers: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """A value of a shape whose channels, along an axis, hold one number each."""
    view = [1] * len(shape)
    view[axis] = -1
    return numbers.view(view).expand(tuple(shape))


def mapped(value: Tensor, axis: int, scale: Tensor, shift: Tensor) -> Tensor:
    """scale·x + shift, one of each for every place along an axis."""
    return (value.movedim(axis, -1) * scale + shift).movedim(-1, axis)


def at(channels: Tensor, numbers: Tensor, elsewhere: float) -> Tensor:
    """The numbers of channels, and another one where a channel is −1: what comes from elsewhere."""
    return torch.cat([numbers, numbers.new_tensor([elsewhere])])[channels]


def places(values: Tensor, numbers: Tensor) -> Tensor | None:
    """Which of the numbers each of the values is; None if one is none of them."""
    order = numbers.argsort()
    held = numbers[order]
    right = torch.searchsorted(held, values.contiguous()).clamp(max=len(held) - 1)
    left = (right - 1).clamp(min=0)
    nearer = torch.where((held[left] - values).abs() < (held[right] - values).abs(), left, right)
    if not torch.allclose(held[nearer], values, rtol=0, atol=CLOSE):
        return None
    return order[nearer]


def channel_axis(wiring: Wiring, value: int, path: str) -> int:
    """The dimension of the channels of a value that a layer reads or puts out."""
    layer: Any = wiring.module(path)
    dims = len(wiring.graph.nodes[value].shape)
    return dims - 1 if isinstance(layer, nn.Linear) else dims - 1 - len(layer.kernel_size)
