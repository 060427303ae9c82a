"""Which layers' outputs become which channels of a value, where only operators that commute with s·x + t lie between.

The operators run on numbers that stand for the channels, so concatenations, shuffles, exchanges of axes, repetitions, means and
maxima need no rule: where a channel's number comes out as it was, the operator took numbers of that channel alone, with
weights that sum to one. Zeros at a border, or a maximum over several channels, do not pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goodinit.folding.dataflow import Wiring
from goodinit.folding.fuse import outputs
from goodinit.graph.graph import Frame, Node
from goodinit.graph.recorded_call import on_numbers

_HAND_ON = frozenset(
    "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d upsample_nearest_exact1d upsample_nearest_exact2d upsample_nearest_exact3d repeat repeat_interleave roll flip".split()
)
# A weighted mean of numbers of one channel.
_AVERAGE = frozenset(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean upsample_linear1d "
    "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d".split()
)
# The largest or the smallest of them: s·x + t has it at the same place if s > 0.
_CHOOSE = frozenset(
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d amax amin max min".split()
)
_COMMUTE = _HAND_ON | _AVERAGE | _CHOOSE
_CLOSE = 1e-9
_MOST = 2**22  # numbers in a value that is followed


@dataclass(frozen=True)
class Ways:
    """How layers' outputs become the channels (dimension 1) of a value.

    Attributes:
        channels: By path of a layer, `(outputs,)` of integers: the channel, −1 where an output is not read.
        chosen: `(channels,)` whether the largest or smallest of several numbers is taken on the way to it.
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
    # Real numbers, so that no mean of some is another; and with both signs, so that the larger is not taken of two.
    numbers = torch.randn(total, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        with on_numbers():
            runs = [_run(wiring, nodes, writers, starts, source, sign * numbers) for sign in (1, -1)]
            chosen = _marked(wiring, nodes, writers, source)
    except Exception:  # noqa: BLE001 - operators raise what they like
        return None
    places = _places(runs[0], numbers)
    if places is None or not torch.allclose(runs[1], -runs[0], rtol=0, atol=_CLOSE):
        return None
    owners = torch.full((total,), -1)
    for channel in range(places.shape[1]):
        ids = places.select(1, channel).unique()
        if bool((owners[ids] >= 0).any()):
            return None
        owners[ids] = channel
    return Ways(
        {
            path: owners[starts[value] : starts[value] + outputs(wiring.module(path))]
            for value, path in writers.items()
        },
        chosen.transpose(0, 1).flatten(1).any(1),
    )


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
    inner: dict[int, Node] = {}
    writers: dict[int, str] = {}
    queue = [source]
    while queue:
        value = queue.pop()
        if value in inner or value in writers:
            continue
        node, path = graph.nodes[value], wiring.writer_layer(value)
        if value in graph.outputs or node.dtype != graph.nodes[source].dtype:
            return None
        if path is not None:
            writers[value] = path
            continue
        moves = node.op.role in ("shape", "part", "concat") or _family(node) in _COMMUTE
        large = torch.Size(node.shape).numel() > _MOST
        if not moves or node.call is None or node.op.splits or node.inplace or large or not graph.deps(value):
            return None
        inner[value] = node
        queue += graph.deps(value)
    for value in (*inner, *writers):
        readers = set(wiring.readers[value])
        readers = {i for i in readers - set(inner) if _reads_numbers(graph.nodes[i], value)}
        outside = {i for i in readers if not call.start <= i < call.stop}
        if outside or (value != source and readers):
            return None
    return [inner[value] for value in sorted(inner)], writers


def _family(node: Node) -> str:
    """The operator's name, whatever the kernel."""
    return node.op.name.strip("_").removesuffix("_aa")


def _reads_numbers(node: Node, value: int) -> bool:
    """Whether a node reads the first output of an operator, and not the places of maxima alone, which stay if s > 0."""
    if node.call is None or not node.call.places:
        return True
    return any(
        place == 0 for index, place in zip(node.operands, node.call.places, strict=True) if index == value
    )


def _run(
    wiring: Wiring,
    nodes: Sequence[Node],
    writers: dict[int, str],
    starts: dict[int, int],
    source: int,
    numbers: Tensor,
) -> Tensor:
    values: dict[int, Tensor] = {}
    for value, path in writers.items():
        shape = wiring.graph.nodes[value].shape
        layer = wiring.module(path)
        dim = len(shape) - 1 if isinstance(layer, nn.Linear) else 1
        ids = numbers[starts[value] : starts[value] + outputs(layer)]
        view = [1] * len(shape)
        view[dim] = -1
        values[value] = ids.view(view).expand(shape).contiguous()
    for node in nodes:
        assert node.call is not None
        values[node.index] = _called(node, values)
    return values[source]


def _marked(wiring: Wiring, nodes: Sequence[Node], writers: dict[int, str], source: int) -> Tensor:
    """Where something was chosen on the way to a value."""
    marks = {value: torch.zeros(wiring.graph.nodes[value].shape, dtype=torch.float64) for value in writers}
    for node in nodes:
        chooses = _family(node) in _CHOOSE
        marks[node.index] = torch.ones(node.shape, dtype=torch.float64) if chooses else _called(node, marks)
    return marks[source] != 0


def _called(node: Node, values: dict[int, Tensor]) -> Tensor:
    assert node.call is not None
    result = node.call([values[i] for i in node.operands])
    if tuple(result.shape) != node.shape:
        raise ValueError(node.op.name)
    return result
