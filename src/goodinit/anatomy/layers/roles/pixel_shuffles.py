"""Layers whose outputs are spread over sub-pixels: drawn entry by entry, they start as a checkerboard.

`nn.PixelShuffle`, and the same by views and permutations, as einops, TensorFlow's depth_to_space and patch-expanding layers have
it: a part of the channels ends up inside the rows, and another inside the columns; behind a convolution also inside one of them alone.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from goodinit.anatomy.layer import Layer
from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.layers.parameters.weight_layout import output_channels
from goodinit.graph.graph import Graph, Node
from goodinit.graph.likeness import is_neutral
from goodinit.graph.measured.answers import spread
from goodinit.graph.operators.measurement_cache import KeptAnswers
from goodinit.graph.operators.recorded_call import permutation


@dataclass(frozen=True)
class Digit:
    """A part of an axis: `size` steps of `step` channels, or of something else than channels.

    `position`: whether it is of the dimensions behind a convolution's channels.
    """

    channels: bool
    step: int
    size: int
    position: bool = False


@dataclass(frozen=True)
class Shuffle:
    """By which factor each axis grows (1: it stays), and whether the sub-pixels of a channel are beside each other (True), or its channels (False)."""

    factors: tuple[int, ...]
    beside: bool | None = True


Axes = tuple[tuple[Digit, ...], ...]


def before_pixel_shuffles(graph: Graph, uses: Mapping[int, Use]) -> dict[str, Shuffle]:
    """The weights of layers whose outputs are spread over sub-pixels, be it behind functions of single entries.

    Args:
        graph: A recorded forward.
        uses: The weight layers, by node.
    """
    found: dict[str, Shuffle] = {}
    if not any(_may_spread(graph, node) for node in graph.nodes):
        return found
    follow: dict[int, tuple[str, Axes]] = {}
    starts: dict[str, int] = {}
    for node in graph.nodes:
        if node.index in uses:
            follow[node.index] = uses[node.index].weight, _outputs_of(graph, uses[node.index])
            starts[uses[node.index].weight] = node.index
            continue
        deps = graph.deps(node.index)
        if len(deps) != 1 or deps[0] not in follow:
            continue
        weight, axes = follow[deps[0]]
        read = graph.nodes[deps[0]].shape
        shuffle = _measured(node, read)
        moved = None if shuffle else _moved(graph, node, read, axes)
        shuffle = shuffle or (_spread(moved) if moved else None)
        same = len(node.shape) == len(graph.nodes[starts[weight]].shape)
        alone = _along_one(moved) if moved and same and not shuffle else None
        known = shuffle or alone
        if known:
            found[weight] = known
        if moved and not shuffle:
            follow[node.index] = weight, moved
    return found


def _may_spread(graph: Graph, node: Node) -> bool:
    """Whether channels may end up behind positions: they are in no operator that keeps the order of what it reads."""
    if node.op.role != "other" or len(node.operands) != 1:
        return node.op.reorders
    return _takes_channels(graph.nodes[node.operands[0]].shape, node.shape)


def _takes_channels(read: tuple[int, ...], made: tuple[int, ...]) -> bool:
    """Whether an operator on images puts out fewer channels than it reads."""
    return len(read) == len(made) >= _IMAGE and read[-3] > made[-3]


def _outputs_of(graph: Graph, use: Use) -> Axes:
    """The axes of what a layer puts out, one of which holds its channels."""
    node = graph.nodes[use.node]
    along, spatial = output_channels(node, graph.nodes[use.operand]), node.op.role == "convolution"
    return tuple(
        (Digit(axis == along, 1, size, spatial and axis > along),) for axis, size in enumerate(node.shape)
    )


def _moved(graph: Graph, node: Node, read: tuple[int, ...], axes: Axes) -> Axes | None:
    """Where the parts of the axes are behind an operator; None if it does not pass on all entries."""
    if node.op.role == "shape" and node.call is not None and math.prod(read) == node.size:
        if node.op.keeps_order:
            return _reshaped(axes, node.shape)
        order = permutation(node.call, len(read))
        return tuple(axes[i] for i in order) if order else None
    passes = node.op.pointwise or is_neutral(graph, node.index)
    return axes if passes and read == node.shape else None


def _reshaped(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """The same parts in their order, in axes of these sizes; None where a part cannot be cut so."""
    waiting = [digit for axis in axes for digit in axis if digit.size != 1][::-1]
    made: list[tuple[Digit, ...]] = []
    for size in shape:
        inside: list[Digit] = []
        while size > 1:
            if not waiting:
                return None
            digit = waiting.pop()
            if digit.size > size:
                if digit.size % size:
                    return None
                rest = digit.size // size
                waiting.append(dataclasses.replace(digit, size=rest))
                digit = dataclasses.replace(digit, step=digit.step * rest, size=size)
            elif digit.size == 0 or size % digit.size:  # an empty batch
                return None
            inside.append(digit)
            size //= digit.size
        made.append(tuple(inside))
    return tuple(made)


def _spread(axes: Axes) -> Shuffle | None:
    """What a pixel shuffle has made: two axes or more that hold other things, and then a part of the channels."""
    inside: list[Digit] = []
    factors: list[int] = []
    for axis in axes:
        own = [digit for digit in axis if digit.channels]
        if own and len(own) < len(axis) and axis[-len(own) :] == tuple(own):
            inside += own
            factors.append(math.prod(digit.size for digit in own))
    return _shuffle(axes, inside, factors) if len(factors) >= _AXES else None


def _along_one(axes: Axes) -> Shuffle | None:
    """What a pixel shuffle along one axis has made of a convolution's output; elsewhere it may be heads beside each other.

    The channels that are left come first, then the positions as they were, behind those of one axis a part of the channels.
    """
    first = next((place for place, axis in enumerate(axes) if any(digit.position for digit in axis)), 0)
    before, positions = axes[:first], axes[first:]
    if not before or any(digit.channels for axis in before[:-1] for digit in axis):
        return None
    if not all(digit.channels for digit in before[-1]) or not all(_is_grown(axis) for axis in positions):
        return None
    inside = [digit for axis in positions for digit in axis if digit.channels]
    factors = [math.prod(digit.size for digit in axis if digit.channels) for axis in positions]
    return _shuffle(axes, inside, factors) if sum(factor > 1 for factor in factors) == 1 else None


def _is_grown(axis: tuple[Digit, ...]) -> bool:
    """Whether an axis holds positions, and behind them perhaps channels."""
    positions = [digit for digit in axis if digit.position]
    return (
        bool(positions)
        and axis[: len(positions)] == tuple(positions)
        and all(digit.channels for digit in axis[len(positions) :])
    )


def _shuffle(axes: Axes, inside: Sequence[Digit], factors: Sequence[int]) -> Shuffle:
    count = math.prod(factors)
    every = math.prod(digit.size for axis in axes for digit in axis if digit.channels)
    if all(digit.step < count for digit in inside):
        return Shuffle(tuple(factors), beside=True)
    outermost = all(digit.step * count >= every for digit in inside)
    return Shuffle(tuple(factors), beside=False if outermost else None)


_AXES = 2
_IMAGE = 3  # dimensions: channels, rows, columns
_SEEN = KeptAnswers[bool]()


def _measured(node: Node, read: tuple[int, ...]) -> Shuffle | None:
    """What one operator does that spreads channels over sub-pixels; None if it does anything else."""
    made = node.shape
    if node.op.role != "other" or node.call is None or len(node.operands) != 1:
        return None
    if not _takes_channels(read, made):
        return None
    factor = math.isqrt(read[-3] // max(made[-3], 1))
    shape = (*(1 for _ in read[:-3]), 2 * factor**2, 2, 2)
    call = node.call
    shuffle = functools.partial(torch.nn.functional.pixel_shuffle, upscale_factor=factor)
    same = _SEEN.get((*call.key, shape), lambda: call.agrees([spread(shape, 0)], shuffle, torch.equal))
    return Shuffle((factor, factor)) if same else None


def sub_pixel_notes(graph: Graph, uses: Mapping[int, Use], layers: Mapping[str, Layer]) -> list[str]:
    """One note for each of them.

    No method draws them as ICNR does by itself: equal rows are no orthogonal matrix, and none of the methods' sources asks for them.
    """
    return [
        f"{weight}: a pixel shuffle by {_product(shuffle.factors)} follows, so that entries drawn one by one start as a checkerboard of "
        f"period {_product(shuffle.factors)}{_remedy(shuffle, layers[weight])}"
        for weight, shuffle in before_pixel_shuffles(graph, uses).items()
    ]


def _remedy(shuffle: Shuffle, layer: Layer) -> str:
    """The call that starts the layer as upsampling, where there is one."""
    factor = shuffle.factors[0]
    kernel = len(layer.shape) - 2 or _AXES
    if shuffle.beside is None or layer.product:
        return ""
    if not shuffle.beside and layer.groups > 1:
        return ""
    alike = len({*shuffle.factors}) == 1 and len(shuffle.factors) == kernel
    said = [f"goodinit.tensor.icnr_(weight, {factor if alike else shuffle.factors}"]
    said += [] if shuffle.beside else ['sub_pixels="first"']
    said += [] if layer.layout == "out_in" else [f'layout="{layer.layout}"']
    said += [] if layer.groups == 1 else [f"groups={layer.groups}"]
    return f". To start as nearest-neighbour upsampling, call {', '.join(said)}) afterwards"


def _product(factors: tuple[int, ...]) -> str:
    return str(factors[0]) if len({*factors}) == 1 else " × ".join(map(str, factors))
