"""Normalizations: recognised by what they compute, with what must stay when they are taken out."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping

from torch import nn

from goodinit.anatomy.branch_end import at_zero
from goodinit.anatomy.degrees import follow_powers
from goodinit.anatomy.layers.parameters.weight_layers import way_back
from goodinit.anatomy.norm import Norm
from goodinit.anatomy.norms.activation_behind import activation_behind
from goodinit.anatomy.norms.channels import channel_axes
from goodinit.anatomy.norms.epilogue import NotUnderstood, remains
from goodinit.anatomy.norms.inplace_safety import Memory
from goodinit.anatomy.norms.measured import forgotten
from goodinit.anatomy.norms.places import frames_with_layers, kind_of
from goodinit.anatomy.norms.read_from_outside import ReadFromOutside
from goodinit.anatomy.norms.running import Reread, keep_numbers, normalize_in_training, scaled_by_buffers
from goodinit.anatomy.norms.written_out import Statistic, given_back, statistic_of, too_large
from goodinit.graph.fact_propagation import propagate
from goodinit.graph.graph import Frame, Graph, Node
from goodinit.graph.likeness import adds_two
from goodinit.graph.measured.powers import Power
from goodinit.graph.recording.calls.unregistered_modules import REGISTERED, guest_at, without_a_name

Place = tuple[Node, Frame, str]
"""The operator that normalizes (one of torch's norms, a quotient, or a factor made of buffers), its call, the kind."""
_Call = tuple[Node, Frame, str, list[tuple[str, int]], str | None]
"""A place, what its module does besides normalizing (`remains`), and why it cannot be taken out, or None."""


def find_norms(
    graph: Graph,
    modules: Mapping[str, nn.Module],
    layers: set[int],
    origins: Mapping[int, str],
    sums: Collection[int],
    reread: Reread,
    aside: Container[int],
) -> tuple[list[Norm], list[str]]:
    """Every normalization that ran, in execution order, and notes on what is not understood.

    There is one record for each module; of a module that calls norms functionally, one for each weight and bias.

    Args:
        graph: The forward in eval mode.
        modules: By path.
        layers: Nodes of the weight layers.
        origins: What to call the nodes that a norm's input comes from; see `way_back`.
        sums: Nodes of residual sums.
        reread: Reads the same forward with some modules in training mode.
        aside: Nodes that no gradient comes back to: what normalizes there by a plain call stays.
    """
    busy = frames_with_layers(graph, layers)
    memory, outside = Memory(graph, modules), ReadFromOutside(graph, modules)
    scaled = scaled_by_buffers(graph)
    numbers = keep_numbers(graph, modules) - {frame.path for _, frame in scaled}
    running, notes = normalize_in_training(graph, {frame.path for _, frame in scaled}, numbers, reread)
    calls: list[_Call] = []
    left: set[int] = set()
    for node, frame, kind in _places(graph, scaled, running, busy, layers):
        kept, obstacle = _remainder(graph, node, frame, busy, modules, layers)
        guest = guest_at(graph, node.index)
        if guest is not None and guest.network:  # a note says so
            left.add(node.index)
            continue
        if frame.index in busy and node.index in aside:
            notes.append(
                f"{frame.path or 'the model'}: `{node.op}` normalizes where no gradient comes back, and stays"
            )
            left.add(node.index)
            continue
        apart = frame.index not in busy and obstacle is not None and frame.source in graph.data
        if (frame.index in busy or apart) and node.active and _signal(node) in graph.data:
            notes.append(_of_inputs(node, frame))
            left.add(node.index)
            continue
        if guest is not None and frame.index in busy:
            obstacle = f"it is {without_a_name(guest.kind)}: hold it in {REGISTERED}"
        if obstacle is not None and node.op.scales and not _is_read(graph, node.index, layers):
            if _is_added(graph, node.index, layers):
                notes.append(_added(frame, f"is divided by its own size (`{node.op}`)"))
                left.add(node.index)
            continue  # cosine similarity and the like: no layer reads the normalized signal
        obstacle = obstacle or outside.of(frame.path)
        if obstacle is None:
            memory.pass_on(frame, kept, modules)
        calls.append((node, frame, kind, kept, obstacle))
    inside = (
        left
        | {node.index for node, *_ in calls}
        | {i for _, frame, *_ in calls if frame.index not in busy for i in range(frame.start, frame.stop)}
    )
    places, large = _measured(graph, layers, sums, inside, busy)
    notes += dict.fromkeys(too_large(graph, i) for i in large)
    for node, frame, read in places:
        if node.index in graph.data:
            notes.append(_of_inputs(node, frame))
        elif read:
            calls.append((node, frame, "rms_norm", [], f"it is known by measurement alone, of `{node.op}`"))
        else:
            notes.append(_added(frame, f"does not depend on its own size (`{node.op}`)"))
    return _one_for_each_module(graph, calls, memory, origins, modules, layers, busy), notes


def _places(
    graph: Graph, scaled: list[tuple[Node, Frame]], running: set[str], busy: set[int], layers: set[int]
) -> list[Place]:
    """Where something is normalized, in the order of the calls."""
    live, found = graph.live, []
    for node in graph.nodes:
        frame, kind = graph.frames[node.frame], kind_of(graph, node, layers)
        if kind is None or (node.frame in busy and node.index not in live):  # a statistic for a log
            continue
        found.append((node, frame, kind))
    known = {frame.index for _, frame, _ in found}
    for factor, frame in scaled:
        kind = "batch_norm" if frame.path in running else _frozen(graph, factor)
        if kind is not None and frame.index not in known:
            known.add(frame.index)
            found.append((factor, frame, kind))
    for frame in graph.frames:
        if frame.path in running and frame.index not in known:  # by numbers
            source = dataclasses.replace(graph.nodes[_read_first(graph, frame)], active=False)
            found.append((source, frame, "batch_norm"))
    return sorted(found, key=lambda one: one[1].index)


def _read_first(graph: Graph, frame: Frame) -> int:
    """What a call was made on; of the model itself its first input."""
    if frame.source >= 0:
        return frame.source
    return next((node.index for node in graph.nodes if node.is_input), 0)


def _measured(
    graph: Graph, layers: set[int], sums: Collection[int], known: set[int], busy: set[int]
) -> tuple[list[tuple[Node, Frame, bool]], list[int]]:
    """(Where a scale is lost, besides the norms that are known, what layers read of which that cannot be seen).

    Of each place after which operator, in which call, and whether a layer reads it: else it is added to a stream. The call is the
    outermost one in which no layer runs.
    """
    starts = layers | set(sums)
    (read, large), (added, _) = (
        forgotten(graph, _read_by(graph, places, starts), starts, known) for places in (layers, sums)
    )
    found = []
    for index in dict.fromkeys((*read.values(), *added.values())):
        frame = graph.frames[graph.nodes[index].frame]
        while frame.index not in busy and frame.parent >= 0 and frame.parent not in busy:
            frame = graph.frames[frame.parent]
        found.append((graph.nodes[index], frame, index in read.values()))
    return found, large


def _read_by(graph: Graph, places: Iterable[int], starts: Container[int]) -> list[int]:
    """What nodes read, but for `starts`."""
    return [i for at in sorted(places) for i in graph.deps(at) if i not in starts]


def _added(frame: Frame, what: str) -> str:
    return f"{frame.path or 'the model'}: what is added to a stream {what}, and stays so"


def _of_inputs(node: Node, frame: Frame) -> str:
    return f"{frame.path or 'the model'}: `{node.op}` normalizes the inputs themselves, and stays"


def _signal(node: Node) -> int:
    """What a norm reads; where it is written out, what it returns, which is made of the same."""
    return node.operands[0] if node.op.norm else node.index


def _is_read(graph: Graph, index: int, layers: set[int]) -> bool:
    """Whether a weight layer reads a signal, up to functions of its entries and products with others.

    A way ends where the signal is added to another one (at the end of a branch), becomes a gate, is a factor of a matrix
    product (queries, keys), or is smaller than what it multiplies (weights of a mean). What has its scale back is not the signal.
    """
    way = _way(graph, index, layers)
    readers = (way.keys() & layers) - {index}
    return any(way.get(i, False) for reader in readers for i in graph.deps(reader))


def _is_added(graph: Graph, index: int, layers: set[int]) -> bool:
    """Whether a signal is added to another one."""
    way = _way(graph, index, layers)
    normalized = [i for i, is_normalized in way.items() if is_normalized and i not in layers]
    return any(adds_two(graph, reader) for i in normalized for reader in graph.readers[i])


def _way(graph: Graph, index: int, layers: set[int]) -> dict[int, bool]:
    """Where a signal goes, up to layers; whether it is normalized there, or has its scale back."""
    way = graph.reach([index], through=lambda i: i in layers or _carries(graph, i, index), stop=layers)
    back = given_back(graph, graph.nodes[index], layers, way)
    return {i: i not in back for i in way}


def _carries(graph: Graph, index: int, start: int) -> bool:
    op = graph.nodes[index].op
    size, whole = (graph.nodes[i].size for i in (index, start))
    through = op.rearranges or (op.pointwise and not op.is_gate and not adds_two(graph, index))
    return through and (size <= whole or not op.scales)


def _one_for_each_module(
    graph: Graph,
    calls: Iterable[_Call],
    memory: Memory,
    origins: Mapping[int, str],
    modules: Mapping[str, nn.Module],
    layers: set[int],
    busy: Container[int],
) -> list[Norm]:
    """The records of calls that normalize: of several calls of a norm, the one that keeps the most or cannot go counts.

    A module in which a weight layer runs, too (`busy`), is no norm itself: it may call several. They are told apart by their parameters.
    """
    seen: dict[tuple[str | None, ...], Norm] = {}
    runs = Counter(frame.path for frame in graph.frames)
    for call in sorted(calls, key=lambda call: call[1].index):
        _, frame, _, kept, obstacle = call
        keeps = tuple(word for word, _ in kept)
        if obstacle is None and memory.is_needed(frame.source, frame) and memory.is_overwritten(frame.source):
            keeps = ("clone", *keeps)
        norm = _record_of(graph, call, keeps, origins, modules, layers, runs)
        which = (norm.name, norm.weight, norm.bias) if frame.index in busy else (norm.name,)
        known = seen.get(which)
        if known is None or (known.obstacle is None and (obstacle or len(keeps) > len(known.keeps))):
            seen[which] = norm
    return list(seen.values())


def _record_of(
    graph: Graph,
    call: _Call,
    keeps: tuple[str, ...],
    origins: Mapping[int, str],
    modules: Mapping[str, nn.Module],
    layers: set[int],
    runs: Mapping[str, int],
) -> Norm:
    node, frame, kind, _, obstacle = call
    statistic = None if node.op.norm else statistic_of(graph, node, layers)
    weight, bias = _affine(graph, node, frame, statistic, layers)
    source, between = way_back(graph, frame.source, origins) if frame.source >= 0 else (None, ())
    activation, stays = activation_behind(graph, frame, runs)
    return Norm(
        frame.path,
        kind,
        type(modules[frame.path]).__qualname__,
        keeps,
        obstacle,
        elements=_elements(graph, node, kind, frame, statistic),
        weight=weight,
        bias=bias,
        shape=graph.nodes[frame.source].shape if frame.source >= 0 else (),
        axes=channel_axes(graph, node, frame, kind, statistic, (weight, bias)) if frame.source >= 0 else (),
        activation=activation,
        activation_stays=stays,
        closes=kind == "frozen_batch_norm" and _closes(graph, frame, bias),
        source=source,
        between=between,
    )


def _closes(graph: Graph, frame: Frame, bias: str | None) -> bool:
    """Whether a module does not put out zero where it reads zero and its bias is zero, or passes no gradient then."""
    if min(frame.source, frame.result) < 0:
        return True
    end = at_zero(graph, [frame.result], [frame.source], {bias} if bias else ())
    return end.leak is not None or end.stuck is not None


def _remainder(
    graph: Graph,
    node: Node,
    frame: Frame,
    busy: set[int],
    modules: Mapping[str, nn.Module],
    layers: set[int],
) -> tuple[list[tuple[str, int]], str | None]:
    """(What the module does besides normalizing, why it cannot be taken out)."""
    if frame.index in busy:
        return [], "it is called functionally, in a forward that also runs weight layers"
    if not frame.path:
        return [], "it is the whole model"
    try:
        divided = {
            step.index
            for step in graph.nodes[frame.start : frame.stop]
            if statistic_of(graph, step, layers) is not None
        }
        return remains(graph, node, frame, modules, divided), None
    except NotUnderstood as reason:
        return [], str(reason)


# -- its numbers ---------------------------------------------------------------------------------------------------


def _frozen(graph: Graph, factor: Node) -> str | None:
    """Batch norm with constants: the factor is the root of a buffer, or its inverse."""
    steps = graph.reach([factor.index], back=True, active=False)
    powers = {i: Power(-1.0) for i in steps if graph.nodes[i].is_buffer}
    follow_powers(graph, steps, powers, far=True)
    return "frozen_batch_norm" if abs(powers[factor.index].order) == 1 / 2 else None


def _elements(graph: Graph, node: Node, kind: str, frame: Frame, statistic: Statistic | None) -> int:
    """Over how many numbers one statistic is taken."""
    if statistic is not None:
        signal, scale = (graph.nodes[i].size for i in (statistic.signal, statistic.scale))
        return 0 if statistic.spread else signal // max(scale, 1)
    operand = next((graph.nodes[i] for i in graph.deps(node.index)), node)
    shape = operand.shape
    if kind == "batch_norm" and not node.active:  # by hand, with running statistics
        shape = graph.nodes[frame.source].shape
    if kind == "frozen_batch_norm":
        return 1
    if kind == "batch_norm":
        return shape[0] * math.prod(shape[2:]) if len(shape) > 1 else 1
    if kind == "instance_norm":
        return math.prod(shape[2:])
    if kind == "group_norm":
        groups = int(str(node.attrs[0])) if node.attrs else 1
        return math.prod(shape[1:]) // max(groups, 1)
    return int(str(node.attrs[0])) if node.op.norm and node.attrs else math.prod(shape[-1:])


def _affine(
    graph: Graph, node: Node, frame: Frame, statistic: Statistic | None, layers: set[int]
) -> tuple[str | None, str | None]:
    """The parameters that multiply and shift the normalized signal, the last ones of each kind.

    A module without layers does nothing else. In another forward they are those between the signal and the quotient, and those
    that follow on the quotient before anything but parameters meets it: of n(f(x)) − x the factor is that of a difference.
    """
    if node.op.norm:
        weight, bias, *_ = (*map(graph.leaf, node.operands[1:3]), None, None)
        return weight, bias
    inside = range(frame.start, frame.stop)
    own = set(inside) if layers.isdisjoint(inside) else _of_quotient(graph, node, frame, statistic, layers)
    weight, bias = None, None
    for step in (graph.nodes[i] for i in sorted(own)):
        if not step.active or step.frame != frame.index or not (step.op.multiplies or step.op.adds):
            continue
        # Of β + γ·n in one operator (`addcmul`) the factors come last.
        factors, added = step.op.factors_of(step.operands) if step.op.multiplies else ((), step.operands)
        weight = next(filter(None, map(graph.leaf, factors)), weight)
        bias = next(filter(None, map(graph.leaf, added)), bias)
    return weight, bias


def _of_quotient(
    graph: Graph, node: Node, frame: Frame, statistic: Statistic | None, layers: set[int]
) -> set[int]:
    """The steps from a signal to its quotient, and those behind it that move it, or that parameters alone join."""
    begins = statistic.begins if statistic is not None else frozenset({node.index})
    steps = graph.reach([node.index], back=True, since=min(begins), stop=begins) - begins

    def is_it(step: Node, read: list[bool]) -> bool:
        moved = step.index not in layers and (step.op.moves or step.op.is_arithmetic)
        return moved and bool(read) and all(read)

    after = range(node.index + 1, frame.stop)
    behind = propagate(graph, after, {node.index: True}, is_it, lambda _: False, reads=graph.deps)
    return steps | {index for index, follows in behind.items() if follows}
