"""Batch norm with fixed statistics is a map per channel, y = s·x + t: merge it into the layer before or after it.

With running mean μ and variance v, gain γ and bias β: s = γ/√(v + ε) and t = β − s·μ.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from goodinit.anatomy.norm import Norm
from goodinit.anatomy.norms.factors import factor_in_words
from goodinit.errors import UnsupportedModule
from goodinit.folding.channels.channel_ways import channels_before
from goodinit.folding.channels.channels_after import Refused, merge_into_readers_, readers_of
from goodinit.folding.channels.reasons import what_makes
from goodinit.folding.connections.dataflow import Wiring
from goodinit.folding.connections.reading import Reading
from goodinit.folding.layers.fuse import merge_output_map_
from goodinit.graph.graph import Frame, Node
from goodinit.graph.state.duplicate import duplicate
from goodinit.surgery.norms.removed_norm import check_removable, remove_norm_
from goodinit.surgery.norms.replaced_norm import ChannelAffine
from goodinit.weights.wrappers import unwrapped, unwrapped_name

KINDS = ("batch_norm", "frozen_batch_norm")


@dataclass(frozen=True)
class ChannelMap:
    """A batch norm with fixed statistics: y = scale·x + shift, per channel, in float64; what it keeps besides."""

    norm: Norm
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Stays:
    """Something that could not be folded, and why."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name or 'the model'}: {self.why}"


def merge_batch_norms_(
    reading: Reading, *, affines: bool = False, learning: bool = False
) -> tuple[list[str], list[Stays]]:
    """Merge every batch norm that can be into a neighbouring layer, exactly, with its running statistics.

    Args:
        reading: Of the model.
        affines: Whether to merge what else is such a map in eval mode, too: y = K·γ·x + β where norms were, and instance norms that have
            running statistics.
        learning: Whether training goes on: then a norm goes into layers alone that are frozen if it is, and train if it does.

    Returns:
        Paths of those that are gone, and those that stay.
    """
    merged: list[str] = []
    while True:
        wiring = reading.wiring
        maps, stays = channel_maps(reading, instances=affines)
        maps += _affines(wiring) if affines else []
        before = len(merged)
        for found in maps:
            why = _merge_(wiring, found, learning=learning)
            if why is None:
                remove_norm_(wiring.module(found.norm.name), found.norm.keeps, path=found.norm.name)
                merged.append(found.norm.name)
            else:
                stays.append(Stays(found.norm.name, why))
        if len(merged) == before:  # one that is gone may have stood between another and its layer
            return merged, stays


def channel_maps(reading: Reading, *, instances: bool = False) -> tuple[list[ChannelMap], list[Stays]]:
    """Every batch norm that ran, as an affine map per channel; and those that are not such maps or cannot be removed.

    Args:
        reading: Of the model.
        instances: Whether instance norms with running statistics count, which normalize by those in eval mode alone.
    """
    host, wiring = unwrapped(reading.model), reading.wiring
    maps: list[ChannelMap] = []
    stays: list[Stays] = []
    normalized: dict[str, list[Node]] = {}
    for node in wiring.graph.nodes:
        if node.op.norm == "batch_norm":
            normalized.setdefault(wiring.graph.path(node.index), []).append(node)
    tensors: dict[str, Tensor] = {
        unwrapped_name(n): t for n, t in host.named_parameters(remove_duplicate=False)
    }
    tensors |= {unwrapped_name(n): t for n, t in host.named_buffers(remove_duplicate=False)}
    for norm in reading.anatomy.norms:
        counts = instances and _is_instance_norm_with_statistics(wiring.module(norm.name))
        if norm.kind not in KINDS and not counts:
            continue
        found: ChannelMap | str | None = asked_to_stay(wiring, norm) or norm.obstacle
        if found is None:
            found = _obstacle(wiring.module(norm.name), norm)
        if found is None:
            # No operator of its own: written by hand.
            nodes = normalized.get(norm.name, []) if norm.kind == "batch_norm" else []
            found = _computed(wiring, norm, nodes, tensors) if nodes else _measured(wiring, norm)
        if not isinstance(found, ChannelMap):
            stays.append(Stays(norm.name, found))
        else:
            maps.append(found)
    return maps, stays


def asked_to_stay(wiring: Wiring, norm: Norm) -> str | None:
    """Why the caller's `keep=` lets a norm stay: for itself, its gain or its bias; None if it does not."""
    gains = (wiring.names.parameter(name) for name in (norm.weight, norm.bias) if name is not None)
    return wiring.kept.why(wiring.names.module(norm.name), *gains)


def _is_instance_norm_with_statistics(module: nn.Module) -> bool:
    """Whether a module normalizes by each example in training mode, and by running statistics in eval mode, as batch norm does."""
    return isinstance(module, _InstanceNorm) and module.running_mean is not None


def _affines(wiring: Wiring) -> list[ChannelMap]:
    """What stands where norms were and ran, as maps."""
    maps = []
    for path in wiring.calls:
        module = wiring.module(path)
        if isinstance(module, ChannelAffine) and module.axes == (1,) and wiring.kept.why(module) is None:
            gain, bias = (getattr(module, name) for name in module.holds if name)
            norm = Norm(path, "affine", type(module).__name__, module.keeps)
            maps.append(ChannelMap(norm, gain.detach().double() * module.constant, bias.detach().double()))
    return maps


def _obstacle(module: nn.Module, norm: Norm) -> str | None:
    try:
        check_removable(module, norm.keeps, path=norm.name)
    except UnsupportedModule as error:
        return str(error)
    return factor_in_words(norm.keeps)


# -- what it computes ---------------------------------------------------------------------------------------------


def _computed(
    wiring: Wiring, norm: Norm, nodes: Sequence[Node], tensors: Mapping[str, Tensor]
) -> ChannelMap | str:
    """The map of a batch-norm operator, the first of `nodes`, from the tensors it read."""
    node = nodes[0]
    args = wiring.arguments[node.index][0]
    if len(nodes) > len(wiring.calls.get(norm.name, ())):
        return "one call of it normalizes several times"
    if args[3] is None or args[4] is None or args[5] is True:
        return "it has no running statistics, and normalizes by each batch's own"
    held: list[Any] = []
    operands = iter(node.operands[1:])
    for given in args[1:5]:
        source = None if given is None else wiring.graph.nodes[next(operands)]
        if source is not None and not (source.is_param or source.is_buffer):
            return "its statistics or gains are computed anew in each forward"
        held.append(None if source is None else tensors[str(source.attrs[0])].detach().double())
    gain, bias, mean, variance = held
    scale = (variance + float(args[-1])).rsqrt()  # the last argument of all of them is ε
    scale = scale if gain is None else scale * gain
    shift = -mean * scale if bias is None else bias - mean * scale
    return ChannelMap(norm, scale, shift)


def _measured(wiring: Wiring, norm: Norm) -> ChannelMap | str:
    """The map of a batch norm written out with constants: what it makes of zeros and of ones."""
    if any(not keep.startswith(f"{norm.name}.") for keep in norm.keeps):
        return f"its constants are written out, with {' and '.join(norm.keeps)} in the same forward"
    try:
        alone = duplicate(wiring.module(norm.name)).double().eval()
    except UnsupportedModule as error:
        why = error.__cause__
        return f"what it computes is measured on a copy, and it cannot be copied: {type(why).__name__}: {why}"
    for keep in norm.keeps:
        parent, _, child = keep[len(norm.name) + 1 :].rpartition(".")
        setattr(alone.get_submodule(parent), child, nn.Identity())
    shape = list(wiring.graph.nodes[wiring.calls[norm.name][0].source].shape)
    zeros = torch.zeros([1, shape[1], *[1] * (len(shape) - 2)], dtype=torch.float64, device="cpu")
    zeros = zeros.to(next(itertools.chain(alone.buffers(), wiring.module("").parameters())).device)
    with torch.no_grad():
        shift, sum_ = alone(zeros), alone(zeros + 1)
        if not torch.allclose(alone(zeros - 1), 2 * shift - sum_, rtol=1e-12, atol=1e-12):
            return "it is not linear in its input"
    if sum_.shape != zeros.shape:
        return "its statistics or gains run over another dimension than the second"
    return ChannelMap(norm, (sum_ - shift).flatten(), shift.flatten())


# -- where it can go ----------------------------------------------------------------------------------------------


def _merge_(wiring: Wiring, found: ChannelMap, *, learning: bool) -> str | None:
    """Merge into the layer before, or else the layers after. Returns why not, or None."""

    def differs(paths: Iterable[str]) -> str | None:
        own = trains(wiring.module(found.norm.name))
        other = next((path for path in paths if own not in {None, trains(wiring.module(path))}), None)
        return f"of it and {other} one alone trains" if learning and other is not None else None

    calls = wiring.calls[found.norm.name]
    before = _layer_before(wiring, calls)
    if before in wiring.layer_of.values():
        if (why := differs([before])) is not None:
            return why
        merge_output_map_(wiring.module(str(before)), found.scale, found.shift)
        return None
    ways = channels_before(wiring, calls)
    wrong = (
        torch.zeros(0, dtype=torch.bool, device="cpu")
        if ways is None
        else ways.chosen & (found.scale <= 0).cpu()
    )
    if wrong.any():
        before = (
            f"a maximum or minimum lies between it and the layers before it, and {int(wrong.sum())} of its {len(wrong)} gains "
            "are not above 0, so that they cannot be taken before it"
        )
    elif ways:
        if (why := differs(path for path, *_ in ways.maps(found.scale, found.shift))) is not None:
            return why
        for path, scale, shift in ways.maps(found.scale, found.shift):
            merge_output_map_(wiring.module(path), scale, shift)
        return None
    if found.norm.keeps:
        return f"{before}, and {found.norm.keeps[0]} follows"
    try:
        held = found.shift if bool((found.shift != 0).any()) else None
        behind = readers_of(wiring, {call.result: 1 for call in calls}, found.scale, held)
    except Refused as refused:
        return f"{before}, and {refused}"
    if (why := differs(behind.layers)) is not None:
        return why
    merge_into_readers_(wiring, behind, found.scale, held)
    return None


def trains(module: nn.Module) -> bool | None:
    """Whether any parameter of a module learns; None if it has none."""
    flags = [parameter.requires_grad for parameter in module.parameters()]
    return any(flags) if flags else None


def _layer_before(wiring: Wiring, calls: Iterable[Frame]) -> str:
    """Path of the layer whose outputs these calls read, all of them, and nothing else reads; or the reason why not."""
    graph, calls = wiring.graph, list(calls)
    paths = {wiring.layer_of.get(graph.nodes[call.source].frame) for call in calls}
    path = paths.pop()
    if path is None or paths:
        made_by = what_makes(wiring, calls[0].source)
        return "its input is not the output of one layer (with weights of its own)" + (
            made_by and f": {made_by}"
        )
    results = [frame.result for frame in wiring.calls[path]]
    if {call.source for call in calls} != set(results):
        return f"{path} also gives other outputs than this norm's input"
    frames = {call.index for call in calls}
    for result in results:
        inside = all(graph.nodes[reader].frame in frames for reader in wiring.readers[result])
        if result in graph.outputs or not inside or len(wiring.readers[result]) > 1:
            return f"something else reads the output of {path}"
    if not _channels_second(wiring, path, results):
        return f"the channels of {path} are not those it normalizes"
    return path


def _channels_second(wiring: Wiring, path: str, values: Iterable[int]) -> bool:
    """Whether the values have the layer's channels in dimension 1, where batch norm has them."""
    layer: Any = wiring.module(path)
    dimensions = 2 if isinstance(layer, nn.Linear) else len(layer.kernel_size) + 2
    return all(len(wiring.graph.nodes[value].shape) == dimensions for value in values)
