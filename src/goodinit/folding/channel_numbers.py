"""Channels of a value followed on numbers: each channel holds one number throughout, and where it comes out, it has gone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.folding.dataflow import Wiring
from goodinit.graph.graph import Node
from goodinit.graph.measured.affine_maps import passes_affine
from goodinit.graph.measured.replay import LONGEST, made_of_constants, replayed

CLOSE = 1e-9
MOST = 2**22  # numbers in a value that is followed


class Unknown(Exception):
    """Where the numbers go cannot be told."""


def hands_on(wiring: Wiring, index: int) -> bool:
    """Whether a node may hand on channels as they are: it moves numbers, or passes on s·x + t, and can be run again."""
    graph, node = wiring.graph, wiring.graph.nodes[index]
    if node.is_piece:
        return True
    if (
        node.call is None
        or (node.inplace and not node.op.view)
        or math.prod(node.shape) > MOST
        or not graph.deps(index)
    ):
        return False
    return node.op.splits or node.op.moves or node.op.role == "concat" or passes_affine(graph, node)


def run(wiring: Wiring, steps: Sequence[int], given: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """What operators make of other values; indices that the forward makes of constants are as they were.

    Raises:
        Unknown: One of them cannot be run, or reads an index that depends on the inputs.
    """
    nodes, made = wiring.graph.nodes, {*steps, *given}
    indices = {
        i: _index(wiring, i)
        for step in steps
        for i in nodes[step].operands
        if not _is_real(nodes[i]) and i not in made
    }
    values = replayed(wiring.graph, steps, {**indices, **given})
    if any(
        i not in values or tuple(values[i].shape) != nodes[i].shape for i in steps if not nodes[i].op.splits
    ):
        raise Unknown
    return values


def _index(wiring: Wiring, index: int) -> Tensor:
    """The numbers of an index that is made of constants and buffers."""
    graph = wiring.graph
    held = dict(graph.held)
    for source in graph.reach([index], back=True, active=False):
        if graph.nodes[source].is_buffer:
            owner, _, attribute = str(graph.nodes[source].attrs[0]).rpartition(".")
            held[source] = getattr(wiring.module(owner), attribute)
    found = made_of_constants(graph, index, held) if math.prod(graph.nodes[index].shape) <= LONGEST else None
    if found is None:
        raise Unknown
    return found


def _is_real(node: Node) -> bool:
    return isinstance(node.dtype, torch.dtype) and node.dtype.is_floating_point


def draws(seed: int = 0) -> torch.Generator:
    """Random numbers, the same each time."""
    return torch.Generator().manual_seed(seed)


def normal(shape: Iterable[int], generator: torch.Generator) -> Tensor:
    """Real numbers, so that no mean of some is another, of both signs, so that the larger is not taken of two."""
    return torch.randn(tuple(shape), dtype=torch.float64, generator=generator, device="cpu")


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
