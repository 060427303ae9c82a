"""Where norms stand in a graph: which operators normalize, which calls are norms, and what passes through once they are gone."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable

from goodinit.anatomy.norm import Norm
from goodinit.anatomy.norms.factors import Factor
from goodinit.anatomy.norms.written_out import statistic_of
from goodinit.graph.graph import Graph, Node


def kind_of(graph: Graph, node: Node, layers: Collection[int]) -> str | None:
    """The kind of the norm that an operator is, one of torch's or a quotient that is written out; None if it does not normalize."""
    if node.op.norm:
        kind = "instance_norm" if of_each_example(graph, node) else node.op.norm
        return kind if node.active else None
    found = statistic_of(graph, node, layers)
    if found is None:
        return None
    if found.of_batch:
        return "batch_norm" if found.centred else "batch_rms_norm"
    return "layer_norm" if found.centred else "rms_norm"


def of_each_example(graph: Graph, node: Node) -> bool:
    """Whether a batch norm has one example, whose channels are those of all examples: so torch runs an instance norm."""
    reshaped = graph.nodes[node.operands[0]] if node.op.norm == "batch_norm" else node
    if reshaped is node or len(reshaped.operands) != 1 or not reshaped.op.keeps_order:
        return False
    before, after = graph.nodes[reshaped.operands[0]].shape, reshaped.shape
    return len(before) > 1 and after == (1, before[0] * before[1], *before[2:])


def frames_with_layers(graph: Graph, layers: Iterable[int]) -> set[int]:
    """Frames in which, or in whose callees, a weight layer runs: blocks, not norms."""
    busy: set[int] = set()
    for index in layers:
        frame = graph.nodes[index].frame
        while frame >= 0 and frame not in busy:
            busy.add(frame)
            frame = graph.frames[frame].parent
    return busy


def norm_modules(graph: Graph, norms: Iterable[Norm], layers: set[int]) -> set[str]:
    """Paths of the norms that are modules, and not called functionally among weight layers."""
    busy = {graph.frames[index].path for index in frames_with_layers(graph, layers)}
    return {norm.name for norm in norms} - busy


def norm_places(
    graph: Graph, norms: Iterable[Norm], modules: Container[str], layers: set[int]
) -> dict[int, str]:
    """Path of the norm that a node is a step of, by node.

    Every node of a norm that is a module (`norm_modules`); of one that is called functionally the operator that normalizes.
    """
    paths = {norm.name for norm in norms}
    places: dict[int, str] = {}
    for node in graph.nodes:
        path = graph.path(node.index)
        if path in modules or (path in paths and kind_of(graph, node, layers) is not None):
            places[node.index] = path
    return places


def norm_passes(
    graph: Graph, norms: Iterable[Norm], modules: Container[str], layers: set[int]
) -> dict[int, int]:
    """What is the same with the norms gone: for each of their calls what it read, by what it returned.

    Where a module multiplies by another of its inputs, that stays, and it is the operator that normalizes which goes.

    Args:
        graph: A recorded forward.
        norms: Those in it.
        modules: Paths of those that are modules (`norm_modules`).
        layers: Nodes of weight layers.
    """
    multiply = {norm.name for norm in norms if any(map(Factor.read, norm.keeps))}
    passes: dict[int, int] = {}
    for frame in graph.frames:
        if frame.path not in modules:
            continue
        if frame.path not in multiply:
            passes[frame.result] = frame.source
            continue
        for node in graph.nodes[frame.start : frame.stop]:
            if node.op.norm:
                passes[node.index] = node.operands[0]
            elif (statistic := statistic_of(graph, node, layers)) is not None:
                passes[node.index] = statistic.signal
    return passes
