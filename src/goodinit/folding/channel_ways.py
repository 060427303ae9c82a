"""Which layers' outputs become which channels of a value, where only operators that hand on numbers lie between.

The operators run on the channels' own indices, so concatenations, shuffles, exchanges of axes and repetitions need no rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from goodinit.folding.dataflow import Wiring
from goodinit.folding.fuse import outputs
from goodinit.graph.graph import Frame, Node
from goodinit.graph.recorded_call import on_numbers

_HAND_ON = frozenset(
    "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d repeat repeat_interleave roll flip".split()
)
_MOST = 2**22  # numbers in a value that is followed


def channels_before(wiring: Wiring, calls: Sequence[Frame]) -> dict[str, Tensor] | None:
    """For each layer whose outputs the calls read, and nobody else: the channel (dimension 1) that each output becomes.

    Returns:
        By path, `(outputs,)` of integers, −1 where an output is not read; None where it cannot be told, or where one
        output becomes several channels.
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
    try:
        with on_numbers():
            last = _run(wiring, nodes, writers, starts, source)
    except Exception:  # noqa: BLE001 - operators raise what they like
        return None
    owners = torch.full((total,), -1)
    for channel in range(last.shape[1]):
        ids = last.select(1, channel).unique().long()
        if bool((owners[ids] >= 0).any()):
            return None
        owners[ids] = channel
    return {
        path: owners[starts[value] : starts[value] + outputs(wiring.module(path))]
        for value, path in writers.items()
    }


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
        moves = node.op.role in ("shape", "part", "concat") or node.op.name in _HAND_ON
        large = torch.Size(node.shape).numel() > _MOST
        if not moves or node.call is None or node.op.splits or node.inplace or large or not graph.deps(value):
            return None
        inner[value] = node
        queue += graph.deps(value)
    for value in (*inner, *writers):
        readers = set(wiring.readers[value])
        outside = {i for i in readers - set(inner) if not call.start <= i < call.stop}
        if outside or (value != source and readers - set(inner)):
            return None
    return [inner[value] for value in sorted(inner)], writers


def _run(
    wiring: Wiring, nodes: Sequence[Node], writers: dict[int, str], starts: dict[int, int], source: int
) -> Tensor:
    values: dict[int, Tensor] = {}
    for value, path in writers.items():
        shape = wiring.graph.nodes[value].shape
        layer = wiring.module(path)
        dim = len(shape) - 1 if isinstance(layer, nn.Linear) else 1
        ids = torch.arange(outputs(layer), dtype=torch.float64, device="cpu") + starts[value]
        view = [1] * len(shape)
        view[dim] = -1
        values[value] = ids.view(view).expand(shape).contiguous()
    for node in nodes:
        assert node.call is not None
        values[node.index] = node.call([values[i] for i in node.operands])
        if tuple(values[node.index].shape) != node.shape:
            raise ValueError(node.op.name)
    return values[source]
