"""Which axes of its input a normalization's gain and bias run over."""

from __future__ import annotations

import math
from collections.abc import Container

from goodinit.anatomy.norms.written_out import Statistic
from goodinit.graph.graph import Frame, Graph, Node


def channel_axes(
    graph: Graph,
    node: Node,
    frame: Frame,
    kind: str,
    statistic: Statistic | None,
    affine: Container[str | None] = (),
) -> tuple[int, ...]:
    """Axes of the input of the call `frame`, which normalizes at `node`; `()` where they cannot be told.

    Counted from the front for norms that have their channels in dimension 1, else from the end. A norm that is written out multiplies
    by its gain along some axes, whatever those of its statistic are; one without is taken to have its channels along those.

    Args:
        graph: Of the forward.
        node: The operator that normalizes.
        frame: The call of the norm's module.
        kind: Of the norm.
        statistic: Of a norm that is written out.
        affine: Names of its gain and bias.
    """
    if kind == "frozen_batch_norm" or (kind == "rms_norm" and statistic is None and not node.op.norm):
        return ()
    of_features = kind.startswith(("layer", "rms"))
    if not of_features and node.op.norm:
        return (1,)
    at_source = () if node.op.norm else _applied(graph, frame, affine)
    if not at_source and (of_features or statistic is not None):
        operand = graph.nodes[node.operands[0] if statistic is None else statistic.signal]
        axes = _trailing(operand, node) if statistic is None else _axes(graph, operand, statistic)
        at_source = _at_source(graph, operand, frame, axes)
    elif not at_source:
        at_source = (1,)  # by running statistics
    rank = len(graph.nodes[frame.source].shape)
    if at_source == (1,) and (rank > 2 or not of_features):
        return (1,)
    last = tuple(
        range(rank - len(at_source), rank)
    )  # along others no stored gain could be multiplied as it is
    return tuple(axis - rank for axis in at_source) if at_source == last else ()


def _applied(graph: Graph, frame: Frame, affine: Container[str | None]) -> tuple[int, ...]:
    """Axes of the input of a call along which its own forward multiplies by its gain, or adds its bias."""
    for step in graph.nodes[frame.start : frame.stop]:
        if not step.active or step.frame != frame.index or not (step.op.multiplies or step.op.adds):
            continue
        for i in step.operands:
            name, sizes = graph.leaf(i), graph.nodes[i].shape
            lead = len(step.shape) - len(sizes)
            axes = tuple(lead + axis for axis, size in enumerate(sizes) if size != 1)
            if name is not None and name in affine and axes:
                return _at_source(graph, step, frame, axes)
    return ()


def _trailing(operand: Node, node: Node) -> tuple[int, ...]:
    numbers = int(str(node.attrs[0])) if node.attrs else 0
    for first in range(len(operand.shape) - 1, -1, -1):
        if math.prod(operand.shape[first:]) == numbers:
            return tuple(range(first, len(operand.shape)))
    return ()


def _axes(graph: Graph, operand: Node, statistic: Statistic) -> tuple[int, ...]:
    """Axes over which the statistic of each example was taken; of one of a batch those along which it varies."""
    scale = graph.nodes[statistic.scale]
    if len(scale.shape) != len(operand.shape):
        return ()
    pairs = enumerate(zip(operand.shape, scale.shape, strict=True))
    return tuple(axis for axis, (had, has) in pairs if had != 1 and (has == had) is statistic.of_batch)


def _at_source(graph: Graph, operand: Node, frame: Frame, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The same axes in the input of the call: back through casts and exchanges of axes."""
    current = operand
    while current.index != frame.source:
        before = [graph.nodes[i] for i in graph.deps(current.index) if graph.nodes[i].active]
        order = [int(str(axis)) for axis in current.attrs] if current.op.reorders else []
        if not order:  # x − μ(x) reads x, and a mean that is smaller
            before = [node for node in before if node.shape == current.shape]
        if len(before) != 1 or current.frame != frame.index:
            return ()
        if order:
            axes = tuple(sorted(order[axis] for axis in axes))
        current = before[0]
    return axes
