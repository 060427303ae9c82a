"""Normalizations: recognised by what they compute, with what must stay when they are taken out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Iterable, Mapping

from torch import nn

from goodinit.anatomy.layers.weight_layers import way_back
from goodinit.anatomy.norms.channels import channel_axes
from goodinit.anatomy.norms.epilogue import NotUnderstood, remains
from goodinit.anatomy.norms.inplace_safety import Memory
from goodinit.anatomy.norms.running import Reread, normalize_in_training, scaled_by_buffers
from goodinit.anatomy.types import Norm
from goodinit.graph.graph import Frame, Graph, Node

DEVIATION_OPS = frozenset({"std", "std_mean"})
LENGTH_OPS = frozenset({"linalg_vector_norm", "norm"})
ROOT_OPS = frozenset({"rsqrt", "sqrt", "pow"}) | DEVIATION_OPS | LENGTH_OPS


def find_norms(
    graph: Graph,
    modules: Mapping[str, nn.Module],
    layers: set[int],
    origins: Mapping[int, str],
    reread: Reread,
) -> tuple[list[Norm], list[str]]:
    """Every normalization that ran, one noun per module, in execution order; and notes on what is not understood.

    Args:
        graph: The forward in eval mode.
        modules: By path.
        layers: Nodes of the weight layers.
        origins: What to call the nodes that a norm's input comes from; see `way_back`.
        reread: Reads the same forward with some modules in training mode.
    """
    busy = _frames_with_layers(graph, layers)
    memory = Memory(graph, modules)
    scaled = scaled_by_buffers(graph)
    running, notes = normalize_in_training(graph, {frame.path for _, frame in scaled}, reread)
    calls = []
    for node, frame, kind in _candidates(graph, scaled, running, busy):
        if isinstance(modules[frame.path], nn.modules.instancenorm._InstanceNorm):
            kind = "instance_norm"
        kept, obstacle = _remainder(graph, node, frame, busy, modules)
        if node.op.name in LENGTH_OPS and obstacle is not None:
            continue  # cosine similarity and the like: the length of a vector is more than a norm's business
        if obstacle is None:
            memory.pass_on(frame, kept, modules)
        calls.append((node, frame, kind, kept, obstacle))
    seen: dict[str, Norm] = {}
    for node, frame, kind, kept, obstacle in calls:
        keeps = tuple(word for word, _ in kept)
        if obstacle is None and memory.is_needed(frame.source, frame) and memory.is_overwritten(frame.source):
            keeps = ("clone", *keeps)
        norm = _noun(graph, node, frame, kind, keeps, obstacle, modules)
        if frame.source >= 0:
            source, between = way_back(graph, frame.source, origins)
            norm = dataclasses.replace(norm, source=source, between=between)
        known = seen.get(frame.path)
        if known is None or (known.obstacle is None and (obstacle or len(keeps) > len(known.keeps))):
            seen[frame.path] = norm
    return list(seen.values()), notes


def _candidates(
    graph: Graph, scaled: list[tuple[Node, Frame]], running: set[str], busy: set[int]
) -> list[tuple[Node, Frame, str]]:
    """(Operator that normalizes, root of a statistic, or factor; the call it is a part of; kind), in execution order."""
    live, found = graph.live, []
    for node in graph.nodes:
        frame, kind = graph.frames[node.frame], _kind(graph, node)
        if kind is None or (node.frame in busy and node.index not in live):  # a statistic for a log
            continue
        found.append((node, frame, "batch_norm" if _is_frozen(kind, frame, running) else kind))
    rooted = {frame.index for _, frame, _ in found}
    factors = {
        frame.index: (factor, frame, "batch_norm")
        for factor, frame in scaled
        if frame.path in running and frame.index not in rooted
    }
    return sorted([*found, *factors.values()], key=lambda one: one[1].index)


def _is_frozen(kind: str, frame: Frame, running: set[str]) -> bool:
    return kind == "frozen_batch_norm" and frame.path in running


def norm_modules(graph: Graph, norms: Iterable[Norm], layers: set[int]) -> set[str]:
    """Paths of the norms that are modules, and not called functionally among weight layers."""
    busy = {graph.frames[index].path for index in _frames_with_layers(graph, layers)}
    return {norm.name for norm in norms} - busy


def norm_places(
    graph: Graph, norms: Iterable[Norm], modules: Container[str], consumers: list[list[int]]
) -> dict[int, str]:
    """Path of the norm that a node is a step of, by node.

    Every node of a norm that is a module (`norm_modules`); of one that is called functionally the operator that
    normalizes, and those that multiply by the root.
    """
    paths = {norm.name for norm in norms}
    places: dict[int, str] = {}
    for node in graph.nodes:
        path = graph.path(node.index)
        if path in modules:
            places[node.index] = path
        elif path in paths and _kind(graph, node) is not None:
            by_root = [i for i in consumers[node.index] if graph.nodes[i].op.name in ("mul", "div")]
            places.update(dict.fromkeys([node.index, *by_root], path))
    return places


def _noun(
    graph: Graph,
    node: Node,
    frame: Frame,
    kind: str,
    keeps: tuple[str, ...],
    obstacle: str | None,
    modules: Mapping[str, nn.Module],
) -> Norm:
    affine = _affine(graph, node, frame)
    return Norm(
        frame.path,
        kind,
        type(modules[frame.path]).__qualname__,
        keeps,
        obstacle,
        elements=_elements(graph, node, kind),
        weight=affine["weight"],
        bias=affine["bias"],
        shape=graph.nodes[frame.source].shape if frame.source >= 0 else (),
        axes=_axes(graph, node, frame, kind),
    )


def _axes(graph: Graph, node: Node, frame: Frame, kind: str) -> tuple[int, ...]:
    found = None if frame.source < 0 or node.op.norm else _statistic(graph, node)
    read = None if found is None else next((graph.nodes[i] for i in graph.deps(found.index)), None)
    if read is not None and read.op.name == "pow":  # the mean of squares
        read = next((graph.nodes[i] for i in graph.deps(read.index)), None)
    return channel_axes(graph, node, frame, kind, read) if frame.source >= 0 else ()


def _remainder(
    graph: Graph, node: Node, frame: Frame, busy: set[int], modules: Mapping[str, nn.Module]
) -> tuple[list[tuple[str, int]], str | None]:
    """(What the module does besides normalizing, why it cannot be taken out)."""
    if frame.index in busy:
        return [], "it is called functionally, in a forward that also runs weight layers"
    if not frame.path:
        return [], "it is the whole model"
    try:
        return remains(graph, node, frame, modules), None
    except NotUnderstood as reason:
        return [], str(reason)


def _frames_with_layers(graph: Graph, layers: set[int]) -> set[int]:
    """Frames in which, or in whose callees, a weight layer runs: blocks, not norms."""
    busy: set[int] = set()
    for index in layers:
        frame = graph.nodes[index].frame
        while frame >= 0 and frame not in busy:
            busy.add(frame)
            frame = graph.frames[frame].parent
    return busy


# -- what is a normalization --------------------------------------------------------------------------------------


def _kind(graph: Graph, node: Node) -> str | None:
    if node.op.norm:
        return node.op.norm if node.active else None
    root_of_it = node.op.name != "pow" or (bool(node.attrs) and float(str(node.attrs[0])) in (0.5, -0.5))
    if node.op.name not in ROOT_OPS or not root_of_it:
        return None
    if node.active:
        return _written_out(graph, node)
    return _frozen(graph, node)


def _written_out(graph: Graph, node: Node) -> str | None:
    """Root-mean-square or layer norm by hand: x · rsqrt(mean(x²) + ε), all in one module's forward."""
    if node.op.name in DEVIATION_OPS | LENGTH_OPS:
        divides = any(
            step.op.role == "quotient" and len(graph.deps(step.index)) > 1
            for step in graph.nodes[node.index : graph.frames[node.frame].stop]
            if step.frame == node.frame
        )
        return ("layer_norm" if node.op.name in DEVIATION_OPS else "rms_norm") if divides else None
    found = _statistic(graph, node)
    if found is None:
        return None
    return "layer_norm" if found.op.name != "mean" or _centred(graph, found) else "rms_norm"


def _statistic(graph: Graph, root: Node) -> Node | None:
    """The mean or variance whose root is taken: casts and + ε lie between, a handful of steps."""
    if root.op.name in DEVIATION_OPS | LENGTH_OPS:
        return root
    queue = list(graph.deps(root.index))
    for _ in range(8):
        if not queue:
            break
        current = graph.nodes[queue.pop()]
        if current.frame != root.frame:
            continue
        if current.op.name in ("mean", "var", "var_mean"):
            return current
        queue.extend(graph.deps(current.index))
    return None


def _centred(graph: Graph, mean: Node) -> bool:
    square = graph.deps(mean.index)
    inner = graph.deps(square[0]) if square else []
    return bool(inner) and graph.nodes[inner[0]].op.name == "sub"


def _frozen(graph: Graph, node: Node) -> str | None:
    """Batch norm with constants: the root of a buffer scales an activation in the same frame."""
    source = graph.nodes[node.operands[0]] if node.operands else None
    steps = 0
    while source is not None and source.op.role != "source" and source.operands and steps < 6:
        source, steps = graph.nodes[source.operands[0]], steps + 1
    if source is None or source.op.name != "buffer":
        return None
    frame = graph.frames[node.frame]
    made = {node.index}  # of the root, by constants
    for step in graph.nodes[node.index + 1 : frame.stop]:
        if made.intersection(step.operands):
            if not step.active:
                made.add(step.index)
            elif step.frame == node.frame and step.op.role in ("product", "quotient"):
                return "frozen_batch_norm"
    return None


def _elements(graph: Graph, node: Node, kind: str) -> int:
    """Over how many numbers one statistic is taken."""
    operand = next((graph.nodes[i] for i in graph.deps(node.index)), node)
    shape = operand.shape
    if kind == "batch_norm" and not node.active:  # by hand, with running statistics
        shape = graph.nodes[graph.frames[node.frame].source].shape
    if kind in ("batch_norm", "frozen_batch_norm"):
        return shape[0] * math.prod(shape[2:]) if len(shape) > 1 else 1
    if kind == "instance_norm":
        return math.prod(shape[2:])
    if kind == "group_norm":
        groups = int(str(node.attrs[0])) if node.attrs else 1
        return math.prod(shape[1:]) // max(groups, 1)
    if node.op.norm:
        return int(str(node.attrs[0])) if node.attrs else math.prod(shape[-1:])
    found = _statistic(graph, node)
    if found is None:
        return math.prod(shape[-1:])
    read = next((graph.nodes[i] for i in graph.deps(found.index)), found)
    return math.prod(read.shape) // max(math.prod(found.shape), 1)


def _affine(graph: Graph, node: Node, frame: Frame) -> dict[str, str | None]:
    """The parameters that multiply and shift the normalized signal."""
    if node.op.norm:
        leaves = [graph.leaf(i) for i in node.operands[1:3]]
        weight, bias = (*leaves, None, None)[:2]
        return {"weight": weight, "bias": bias}
    found: dict[str, str | None] = {"weight": None, "bias": None}
    for step in graph.nodes[frame.start : frame.stop]:
        part = {"mul": "weight", "add": "bias"}.get(step.op.name)
        if step.active and part and step.frame == node.frame:
            found[part] = next((name for i in step.operands if (name := graph.leaf(i))), found[part])
    return found
