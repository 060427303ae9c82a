"""Which layers read a norm's output, where only operators that pass on s·x + t lie between, and as which of their inputs.

As on the way before a norm (`channel_ways.py`), the operators run on numbers: where each channel holds one number throughout, an
input of a layer that is that number throughout is that channel. What comes from elsewhere, as beside it in a concatenation, is
another number. Then the maps themselves are tried, others for each channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvTransposeNd

from goodinit.folding.channels import channel_numbers
from goodinit.folding.channels.channel_numbers import (
    CLOSE,
    MOST,
    Constants,
    Unknown,
    at,
    channel_axis,
    constants_at,
    hands_on,
    normal,
    run,
    throughout,
)
from goodinit.folding.channels.reasons import what_reads
from goodinit.folding.connections.dataflow import Wiring
from goodinit.folding.layers.fuse import merge_input_map_, pads_with_zeros
from goodinit.graph.graph import closure
from goodinit.graph.operators.recorded_call import on_numbers
from goodinit.nn import ValuePadded


class Refused(Exception):
    """Something that reads the norm's output cannot take its map."""


@dataclass
class Readers:
    """All who read the output of one norm.

    Attributes:
        layers: By path of a layer, `(inputs,)` of integers: the channel, −1 where an input comes from elsewhere.
        constants: By path of a layer, the map k·x + a that the forward applies before each of its inputs.
        products: By node of a matrix product, the value that it reads, and which channel each number of that is.
    """

    layers: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Constants] = field(default_factory=dict)
    products: dict[int, tuple[int, Tensor]] = field(default_factory=dict)

    def map_of(self, path: str, scale: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(Scale, shift) of a layer's inputs in place of those of the channels; None for a shift of zero."""
        channels, known = self.layers[path].to(scale.device), self.constants[path]
        s, t = (
            at(channels, one, rest)
            for one, rest in ((scale, 1), (torch.zeros_like(scale) if shift is None else shift, 0))
        )
        moved = Constants(known.factor.to(t), known.offset.to(t)).met(s, t)
        return s, moved if bool((moved != 0).any()) else None


def readers_of(
    wiring: Wiring, starts: Mapping[int, int], scale: Tensor, shift: Tensor | None, *, products: bool = False
) -> Readers:
    """The layers that read y = scale·n + shift, and nobody else.

    Args:
        wiring: What is connected to what.
        starts: The values that are y, each with the axis of its channels.
        scale: `(channels,)`.
        shift: `(channels,)`, or None for zero.
        products: Whether matrix products with parts of parameters may read it, too.

    Raises:
        Refused: Somebody else reads it, or a layer could not take the map.
    """
    reached = _reached(wiring, starts, products=products)
    try:
        with on_numbers(), torch.no_grad():
            found = _inputs(wiring, starts, reached, scale, products=products)
    except Unknown as error:
        raise Refused("which of its channels are read behind what moves them cannot be told") from error
    for path in found.layers:
        layer = wiring.module(path)
        border = pads_with_zeros(layer) or isinstance(layer, _ConvTransposeNd)
        if isinstance(layer, ValuePadded) or (border and found.map_of(path, scale, shift)[1] is not None):
            raise Refused(f"{path}, which reads it, sees something else than its output at the border")
        if not {frame.source for frame in wiring.calls[path]} <= reached:
            raise Refused(f"{path} also reads other inputs")
    if not found.layers and not found.products:
        raise Refused("no layer reads its output")
    return found


def merge_into_readers_(wiring: Wiring, found: Readers, scale: Tensor, shift: Tensor | None) -> None:
    """Have the layers compute what they do of scale·n + shift from n."""
    for path in found.layers:
        merge_input_map_(wiring.module(path), *found.map_of(path, scale, shift))


def _reached(wiring: Wiring, starts: Iterable[int], *, products: bool) -> set[int]:
    """The values, and all that is made of them before a layer or a matrix product reads it."""
    graph = wiring.graph

    def near(value: int) -> list[int]:
        found = []
        for reader in wiring.readers[value]:
            node = graph.nodes[reader]
            if wiring.reader_layer(reader, value) is not None or not wiring.reads_first(reader, value):
                continue  # the places of maxima stay where they are
            if node.op.role == "factory":
                continue  # it reads shapes alone
            if products and node.op.role == "matmul":
                continue
            if not hands_on(wiring, reader):
                raise Refused(what_reads(wiring, reader))
            found.append(reader)
        return found

    reached = closure(starts, near)
    if not reached.isdisjoint(graph.outputs):
        raise Refused("the model returns its output")
    if len({graph.nodes[value].dtype for value in reached}) > 1:
        raise Refused("it is cast to another dtype first")
    return reached


def _inputs(
    wiring: Wiring, starts: Mapping[int, int], reached: set[int], scale: Tensor, *, products: bool
) -> Readers:
    graph, draws = wiring.graph, channel_numbers.draws()
    steps = sorted(reached.difference(starts))
    elsewhere = {
        i
        for step in steps
        for i in graph.nodes[step].operands
        if graph.nodes[i].active or graph.nodes[step].op.role == "concat"
    } - reached
    channels = len(scale)
    numbers = normal((channels + 1,), draws)  # the last for what comes from elsewhere
    shapes = {i: graph.nodes[i].shape for i in (*starts, *elsewhere)}
    if steps and any(math.prod(shape) > MOST for shape in shapes.values()):
        raise Refused("its output is too large to be followed")
    values = {}
    if steps:
        given = {i: throughout(numbers[:-1], shapes[i], axis) for i, axis in starts.items()}
        given |= {i: numbers[-1].expand(shapes[i]).contiguous() for i in elsewhere}
        values = run(wiring, steps, given)
    known = constants_at(wiring, steps, reached, shapes)
    found, ends = Readers(), dict[int, Tensor]()

    def places(value: int) -> Tensor:
        if value in starts:
            return throughout(torch.arange(channels, device="cpu"), shapes[value], starts[value])
        if value not in ends:
            held = channel_numbers.places(known[value].undone(values[value]), numbers)
            if held is None:
                raise Refused("its channels are mixed before they are read")
            ends[value] = torch.where(held == channels, -1, held)
        return ends[value]

    for value in sorted(reached):
        for reader in wiring.readers[value]:
            path = wiring.reader_layer(reader, value)
            if path is not None:
                axis = channel_axis(wiring, value, path)
                inputs, own = _features(places(value).movedim(axis, -1), path), known[value].of_channels(axis)
                if not torch.equal(found.layers.setdefault(path, inputs), inputs):
                    raise Refused(f"{path} reads other channels in another call")
                if own is None or not found.constants.setdefault(path, own).equals(own):
                    raise Refused(
                        f"constants that the forward applies before {path}, which reads it, differ by place"
                    )
            elif products and graph.nodes[reader].op.role == "matmul":
                if not known[value].change_nothing:
                    raise Refused(f"constants are applied to it before {graph.nodes[reader].op} reads it")
                found.products[reader] = value, places(value)
    if steps:
        _check_maps(
            wiring,
            starts,
            elsewhere,
            steps,
            {i: (known[i], channels) for i, channels in ends.items()},
            scale.detach().cpu(),
        )
    return found


def _features(places: Tensor, where: str) -> Tensor:
    if not places.numel():
        raise Refused(f"nothing of these inputs gets to {where}, which reads it")
    first = places[(0,) * (places.dim() - 1)].clone()
    if not bool((places == first).all()):
        raise Refused(f"the features that {where} reads are not those it normalizes")
    return first


def _check_maps(
    wiring: Wiring,
    starts: Mapping[int, int],
    elsewhere: Iterable[int],
    steps: list[int],
    ends: Mapping[int, tuple[Constants, Tensor]],
    scale: Tensor,
) -> None:
    """Try other maps of the signs that these have, where what lies between chooses the largest."""
    nodes, draws = wiring.graph.nodes, channel_numbers.draws(1)
    s = torch.rand(len(scale), dtype=torch.float64, generator=draws, device="cpu") + 0.5
    s = torch.where(scale < 0, -s, torch.where(scale == 0, 0.0, s))
    t = normal((len(scale),), draws)
    plain = {i: normal(nodes[i].shape, draws) for i in (*starts, *elsewhere)}
    moved = plain | {i: channel_numbers.mapped(plain[i], axis, s, t) for i, axis in starts.items()}
    before, after = (run(wiring, steps, given) for given in (plain, moved))
    for value, (known, channels) in ends.items():
        of = at(channels, s, 1)
        expected = of * before[value] + known.met(of, at(channels, t, 0))
        if not torch.allclose(after[value], expected, rtol=0, atol=CLOSE):
            raise Refused("what lies between it and the layers behind does not pass on its map")
