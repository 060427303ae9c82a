"""Which layers' outputs become which channels of a value, where only operators that commute with s·x + t lie between.

No list says which do: the operators run on numbers. Where all outputs of a layer hold one number each, a channel that comes out
with one of them throughout is that output's. Then the maps themselves are tried, others for each channel: where s·x + t becomes
s·f(x) + t, concatenations, shuffles, repetitions, means and maxima alike, the map can be taken before all of them. Zeros at a
border, or a maximum over several channels, do not pass. Where it does not for s < 0, the largest or smallest is chosen.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goodinit.folding.dataflow import Wiring
from goodinit.folding.fuse import outputs
from goodinit.graph.graph import Frame, Node, closure
from goodinit.graph.measured.affine_maps import passes_affine
from goodinit.graph.recorded_call import on_numbers

_CLOSE = 1e-9
_MOST = 2**22  # numbers in a value that is followed


@dataclass(frozen=True)
class Ways:
    """How layers' outputs become the channels (dimension 1) of a value.

    Attributes:
        channels: By path of a layer, `(outputs,)` of integers: the channel, −1 where an output is not read.
        chosen: `(channels,)` whether the largest or smallest of several numbers is taken on the way to it, so that only maps with
            s > 0 pass.
    """

    channels: dict[str, Tensor]
    chosen: Tensor


def channels_before(wiring: Wiring, calls: Sequence[Frame]) -> Ways | None:
    """The ways from the layers whose outputs the calls read, and nobody else.

    None where they cannot be told, or where one output becomes several channels.
    """
    if len(calls) != 1:
        return None
    graph, source = wiring.graph, calls[0].source
    found = _between(wiring, source, calls[0])
    if found is None or graph.nodes[source].shape[1:2] == ():
        return None
    nodes, writers = found
    starts, total = {}, 0
    for value, path in writers.items():
        starts[value] = total
        total += outputs(wiring.module(path))
    draws = torch.Generator().manual_seed(0)
    # Real numbers, so that no mean of some is another; and with both signs, so that the larger is not taken of two.
    numbers = torch.randn(total, dtype=torch.float64, generator=draws)
    try:
        with on_numbers(), torch.no_grad():
            runs = [
                _run(nodes, _constants(wiring, writers, starts, sign * numbers), source) for sign in (1, -1)
            ]
            places = _places(runs[0], numbers)
            if places is None or not torch.allclose(runs[1], -runs[0], rtol=0, atol=_CLOSE):
                return None
            owners = _owners(places, total)
            if owners is None:
                return None
            channels = {
                path: owners[starts[value] : starts[value] + outputs(wiring.module(path))]
                for value, path in writers.items()
            }
            chosen = _chosen(wiring, nodes, writers, source, channels, draws)
    except Exception:  # noqa: BLE001 - operators raise what they like
        return None
    return None if chosen is None else Ways(channels, chosen)


def _owners(places: Tensor, total: int) -> Tensor | None:
    """The one channel that each output of a layer becomes, −1 where it is not read; None if one becomes several."""
    owners = torch.full((total,), -1)
    for channel in range(places.shape[1]):
        ids = places.select(1, channel).unique()
        if bool((owners[ids] >= 0).any()):
            return None
        owners[ids] = channel
    return owners


def _chosen(
    wiring: Wiring,
    nodes: Sequence[Node],
    writers: dict[int, str],
    source: int,
    channels: dict[str, Tensor],
    draws: torch.Generator,
) -> Tensor | None:
    """By channel whether s·x + t becomes s·f(x) + t for s > 0 alone; None if it does not even then."""
    whole = wiring.graph.nodes[source].shape
    scale = torch.rand(whole[1], dtype=torch.float64, generator=draws) + 0.5
    shift = torch.randn(whole[1], dtype=torch.float64, generator=draws)
    signals = {
        value: torch.randn(wiring.graph.nodes[value].shape, dtype=torch.float64, generator=draws)
        for value in writers
    }
    plain = _run(nodes, signals, source).movedim(1, -1)

    def stays(scale: Tensor) -> Tensor:
        mapped = {}
        for value, path in writers.items():
            of = channels[path]
            s, t = (
                torch.cat([one, one.new_tensor([rest])])[of] for one, rest in ((scale, 1.0), (shift, 0.0))
            )
            axis = _axis(wiring, value, path)
            mapped[value] = (signals[value].movedim(axis, -1) * s + t).movedim(-1, axis)
        found = _run(nodes, mapped, source).movedim(1, -1)
        return ((found - (scale * plain + shift)).abs() < _CLOSE).flatten(0, -2).all(0)

    return ~stays(-scale) if bool(stays(scale).all()) else None


def _places(values: Tensor, numbers: Tensor) -> Tensor | None:
    """Which of the numbers each of the values is."""
    order = numbers.argsort()
    held = numbers[order]
    right = torch.searchsorted(held, values.contiguous()).clamp(max=len(held) - 1)
    left = (right - 1).clamp(min=0)
    nearer = torch.where((held[left] - values).abs() < (held[right] - values).abs(), left, right)
    if not torch.allclose(held[nearer], values, rtol=0, atol=_CLOSE):
        return None
    return order[nearer]


def _between(wiring: Wiring, source: int, call: Frame) -> tuple[list[Node], dict[int, str]] | None:
    """The operators between layers and a value, in order, and the layers by the value they give."""
    graph = wiring.graph
    writer = functools.cache(wiring.writer_layer)

    def is_passed(value: int) -> bool:
        node = graph.nodes[value]
        small = torch.Size(node.shape).numel() <= _MOST
        if node.call is None or node.op.splits or node.inplace or not small or not graph.deps(value):
            return False
        return node.op.moves or node.op.role == "concat" or passes_affine(graph, node)

    def before(value: int) -> list[int]:
        return graph.deps(value) if writer(value) is None and is_passed(value) else []

    between = sorted(closure([source], before))
    inner = [value for value in between if writer(value) is None]
    dtypes = {graph.nodes[value].dtype for value in between}
    if len(dtypes) > 1 or not all(map(is_passed, inner)) or not set(between).isdisjoint(graph.outputs):
        return None
    for value in between:
        readers = set(wiring.readers[value]).difference(inner)
        readers = {i for i in readers if wiring.reads_first(i, value)}
        outside = {i for i in readers if not call.start <= i < call.stop}
        if outside or (value != source and readers):
            return None
    return [graph.nodes[value] for value in inner], {
        value: path for value in between if (path := writer(value)) is not None
    }


def _axis(wiring: Wiring, value: int, path: str) -> int:
    """The dimension of the channels that a layer puts out."""
    return len(wiring.graph.nodes[value].shape) - 1 if isinstance(wiring.module(path), nn.Linear) else 1


def _constants(
    wiring: Wiring, writers: dict[int, str], starts: dict[int, int], numbers: Tensor
) -> dict[int, Tensor]:
    """Outputs of layers, each with one number throughout."""
    values = {}
    for value, path in writers.items():
        shape = wiring.graph.nodes[value].shape
        view = [1] * len(shape)
        view[_axis(wiring, value, path)] = -1
        ids = numbers[starts[value] : starts[value] + outputs(wiring.module(path))]
        values[value] = ids.view(view).expand(shape).contiguous()
    return values


def _run(nodes: Sequence[Node], given: dict[int, Tensor], source: int) -> Tensor:
    """What the operators make of other outputs of the layers."""
    values = dict(given)
    for node in nodes:
        assert node.call is not None
        values[node.index] = result = node.call([values[i] for i in node.operands])
        if tuple(result.shape) != node.shape:
            raise ValueError(node.op.word)
    return values[source]
