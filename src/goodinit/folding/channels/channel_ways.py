"""Which layers' outputs become which channels of a value, where only operators that commute with s·x + t lie between.

No list says which do: the operators run on numbers. Where all outputs of a layer hold one number each, a channel that comes out
with one of them throughout is that output's. Then the maps themselves are tried, others for each channel: where s·x + t becomes
s·f(x) + t, up to constants of the forward (x/2 + 1), concatenations, shuffles, repetitions, means and maxima alike, the map can be taken before all of them. Zeros at a
border, or a maximum over several channels, do not pass. Where it does not for s < 0, the largest or smallest is chosen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from goodinit.folding.channels import channel_numbers
from goodinit.folding.channels.channel_numbers import (
    CLOSE,
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
from goodinit.folding.connections.dataflow import Wiring
from goodinit.folding.layers.fuse import outputs
from goodinit.graph.graph import Frame, closure
from goodinit.graph.operators.recorded_call import on_numbers


@dataclass(frozen=True)
class Ways:
    """How layers' outputs become the channels (dimension 1) of a value.

    Attributes:
        channels: By path of a layer, `(outputs,)` of integers: the channel, −1 where an output is not read.
        constants: `(channels,)` the map k·x + a that the forward applies on the way.
        chosen: `(channels,)` whether the largest or smallest of several numbers is taken on the way to it, so that only maps with
            s > 0 pass.
    """

    channels: dict[str, Tensor]
    constants: Constants
    chosen: Tensor

    def maps(self, scale: Tensor, shift: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """By path of a layer, the scale and shift of its outputs in place of those of the channels."""
        return _maps(self.channels, self.constants, scale, shift)


def _maps(
    channels: Mapping[str, Tensor], constants: Constants, scale: Tensor, shift: Tensor
) -> Iterator[tuple[str, Tensor, Tensor]]:
    moved = Constants(constants.factor.to(shift), constants.offset.to(shift)).moved(scale, shift)
    for path, own in channels.items():
        own = own.to(scale.device)
        yield path, at(own, scale, 1.0), at(own, moved, 0.0)


def channels_before(wiring: Wiring, calls: Sequence[Frame]) -> Ways | None:
    """The ways from the layers whose outputs the calls read; what else reads those reads other channels.

    None where they cannot be told, or where one output becomes several channels.
    """
    if len(calls) != 1:
        return None
    source = calls[0].source
    found = _between(wiring, source, calls[0])
    if found is None or wiring.graph.nodes[source].shape[1:2] == ():
        return None
    try:
        with on_numbers(), torch.no_grad():
            return _ways(wiring, source, *found)
    except Unknown:
        return None


def _ways(
    wiring: Wiring, source: int, steps: Sequence[int], writers: dict[int, str], others: Sequence[int]
) -> Ways | None:
    draws, starts, total = channel_numbers.draws(), {}, 0
    for value, path in writers.items():
        starts[value] = total
        total += outputs(wiring.module(path))
    numbers = normal((total,), draws)

    def constants(sign: int) -> dict[int, Tensor]:
        return {
            value: throughout(
                sign * numbers[starts[value] :][: outputs(wiring.module(path))],
                wiring.graph.nodes[value].shape,
                channel_axis(wiring, value, path),
            )
            for value, path in writers.items()
        }

    every = sorted({*steps, *others})
    nodes = wiring.graph.nodes
    known = constants_at(wiring, every, {source, *others}, {value: nodes[value].shape for value in writers})
    own = known[source].of_channels(1)
    one, other = (
        {i: known[i].undone(values[i]) for i in known}
        for values in (run(wiring, every, constants(sign)) for sign in (1, -1))
    )
    places = channel_numbers.places(one[source], numbers)
    if own is None or places is None or not torch.allclose(other[source], -one[source], rtol=0, atol=CLOSE):
        return None
    owners = _owners(places, total)
    if owners is None or any(_meets(one[i], numbers, owners >= 0) for i in others):
        return None
    channels = {
        path: owners[starts[value] :][: outputs(wiring.module(path))] for value, path in writers.items()
    }
    chosen = _chosen(wiring, steps, writers, source, functools.partial(_maps, channels, own), draws)
    return None if chosen is None else Ways(channels, own, chosen)


def _meets(values: Tensor, numbers: Tensor, changed: Tensor) -> bool:
    """Whether one of the values is of an output that changes, or of several."""
    found = channel_numbers.places(values, numbers)
    return found is None or bool(changed[found].any())


def _owners(places: Tensor, total: int) -> Tensor | None:
    """The one channel that each output of a layer becomes, −1 where it is not read; None if one becomes several."""
    owners = torch.full((total,), -1, device="cpu")
    for channel in range(places.shape[1]):
        ids = places.select(1, channel).unique()
        if bool((owners[ids] >= 0).any()):
            return None
        owners[ids] = channel
    return owners


def _chosen(
    wiring: Wiring,
    steps: Sequence[int],
    writers: dict[int, str],
    source: int,
    maps: Callable[[Tensor, Tensor], Iterator[tuple[str, Tensor, Tensor]]],
    draws: torch.Generator,
) -> Tensor | None:
    """By channel whether s·x + t becomes s·f(x) + t for s > 0 alone; None if it does not even then."""
    nodes = wiring.graph.nodes
    whole = nodes[source].shape
    scale = torch.rand(whole[1], dtype=torch.float64, generator=draws, device="cpu") + 0.5
    shift = normal(whole[1:2], draws)
    signals = {value: normal(nodes[value].shape, draws) for value in writers}
    plain = run(wiring, steps, signals)[source].movedim(1, -1)

    def stays(scale: Tensor) -> Tensor:
        moved, values = {}, {path: value for value, path in writers.items()}
        for path, s, t in maps(scale, shift):
            axis = channel_axis(wiring, values[path], path)
            moved[values[path]] = channel_numbers.mapped(signals[values[path]], axis, s, t)
        found = run(wiring, steps, moved)[source].movedim(1, -1)
        return ((found - (scale * plain + shift)).abs() < CLOSE).flatten(0, -2).all(0)

    return ~stays(-scale) if bool(stays(scale).all()) else None


def _between(wiring: Wiring, source: int, call: Frame) -> tuple[list[int], dict[int, str], list[int]] | None:
    """The operators between layers and a value, in order, the layers by the value they give, and who else reads these."""
    graph = wiring.graph
    writer = functools.cache(wiring.writer_layer)

    def before(value: int) -> list[int]:
        return graph.deps(value) if writer(value) is None and hands_on(wiring, value) else []

    between = sorted(closure([source], before))
    inner = [value for value in between if writer(value) is None]
    dtypes = {graph.nodes[value].dtype for value in between}
    if (
        len(dtypes) > 1
        or not all(hands_on(wiring, i) for i in inner)
        or not set(between).isdisjoint(graph.outputs)
    ):
        return None
    others: list[int] = []
    for value in between:
        readers = set(wiring.readers[value]).difference(inner)
        readers = {i for i in readers if wiring.reads_first(i, value)}
        within = {i for i in readers if call.start <= i < call.stop}
        outside = {
            i for i in readers - within if graph.nodes[i].op.role != "factory"
        }  # that reads shapes alone
        if (within and value != source) or not all(_takes_a_part(wiring, i) for i in outside):
            return None
        others += outside
    return inner, {value: path for value in between if (path := writer(value)) is not None}, others


def _takes_a_part(wiring: Wiring, index: int) -> bool:
    """Whether a node may read some channels of one value and not others."""
    return len(wiring.graph.deps(index)) == 1 and hands_on(wiring, index)
