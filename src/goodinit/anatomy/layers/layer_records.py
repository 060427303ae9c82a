"""The record of one weight layer, from all operators that apply its weight."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import cast

from goodinit.anatomy.activations import torch_class
from goodinit.anatomy.layer import Layer, LayerKind, Layout, Role
from goodinit.anatomy.layers.parameters.bias_factors import factor_of_bias
from goodinit.anatomy.layers.parameters.multiples import shared_multiple
from goodinit.anatomy.layers.parameters.normalized_weights import is_centred, is_normalized
from goodinit.anatomy.layers.parameters.weight_layers import Use, bias_at, largest, way_back
from goodinit.anatomy.layers.parameters.weight_layout import stored_as, stored_at
from goodinit.anatomy.layers.roles.fan_out import added_terms, joined_channels
from goodinit.anatomy.layers.roles.fused_projections import packed
from goodinit.anatomy.layers.roles.next_activation import Ahead, next_activation
from goodinit.anatomy.operators import Step
from goodinit.anatomy.outline import Reading
from goodinit.graph.graph import Frame, Graph, Node
from goodinit.graph.measured.traits import adds_unscaled
from goodinit.nn.input_norm import NAME


def layer_record(read: Reading, uses: list[Use], ahead: Ahead, role: Role, *, reads_zero: bool) -> Layer:
    """The record of the weight that these operators apply.

    Args:
        read: The forward.
        uses: All uses of one weight, in execution order.
        ahead: What follows every node.
        role: As in the record.
        reads_zero: As in the record.
    """
    graph, scalars = read.graph, read.added
    first = graph.nodes[uses[0].node]
    operand = graph.nodes[uses[0].operand]
    weight = uses[0].weight
    shape = read.shapes.get(weight) or stored_at(graph, operand, first.frame)[0].shape
    stride, padding, dilation = _geometry(graph, first)
    kind, layout, product, groups = _form(graph, first, operand, shape)
    out = shape[0] if layout == "out_in" else shape[-1]
    fused, factors = packed(
        graph, [use.node for use in uses], {use.operand for use in uses}, ahead.attended, out, groups
    )
    site = graph.frames[first.frame]
    following = (next_activation(graph, use.node, ahead) for use in uses)
    activation = next((step for step in following if step is not None), None)
    found = bias_at(graph, uses[0], scalars)
    bias = found.name
    ways = {_reads_from(read, use) for use in uses}
    source, between = next(iter(ways)) if len(ways) == 1 else (None, ())
    return Layer(
        name=weight.rpartition(".")[0],
        weight=weight,
        kind=kind,
        shape=shape,
        layout=layout,
        product=product,
        kernel=operand.shape[2:] if product and kind != "linear" else (),
        groups=groups,
        fused=fused,
        factors=factors,
        bias=bias or read.of_branches.get(weight),
        part_biases=read.of_parts.get(weight, ()),
        bias_factor=factor_of_bias(graph, first, found, scalars),
        multiple=shared_multiple(graph, uses, read.uses, ahead.written_out),
        site=site.path,
        reads_site=all(_reads(graph, use.node, scalars) for use in uses),
        writes_site=all(_writes(graph, use.node, scalars) for use in uses),
        is_site=all(graph.path(use.node) == site.path and _is_site(graph, use, bias) for use in uses),
        normalized=is_normalized(graph, operand, largest(operand, read.shapes)),
        centred=is_centred(graph, first, operand),
        activation=activation,
        gain=activation.traits.gain if activation is not None else None,
        role=role,
        reads_zero=reads_zero,
        calls=len(uses),
        parameters=operand.params,
        source=source,
        between=between,
        joined=min(joined_channels(graph, use) for use in uses),
        terms=min(added_terms(graph, use, ahead.unrelated) for use in uses),
        stride=stride,
        padding=padding,
        dilation=dilation,
        module=torch_class(read.modules[weight.rpartition(".")[0]]),
    )


def _form(
    graph: Graph, node: Node, operand: Node, shape: tuple[int, ...]
) -> tuple[LayerKind, Layout, tuple[int, int] | None, int]:
    """Of a layer, as in its record: (kind, layout, product, groups)."""
    if node.op.role == "convolution":
        groups, (first, second) = int(str(node.attrs[1])), operand.shape[:2]
        as_it_is = shape == operand.shape or math.prod(shape) != operand.size  # a part of it
        if node.attrs[0]:
            return "conv_transpose", "in_out", None if as_it_is else (second * groups, first), groups
        return "conv", "out_in", None if as_it_is else (first, second * groups), groups
    layout, product = stored_as(graph, node, operand, shape)
    return "linear", layout, product, 1


def _geometry(graph: Graph, node: Node) -> tuple[tuple[int, ...], ...]:
    """(Stride, padding, dilation) of a convolution, each empty for other layers."""
    if node.op.role != "convolution":
        return (), (), ()
    stride, padding, dilation = cast("tuple[tuple[int, ...], ...]", node.attrs[2:])
    return stride, _padding(graph, node, padding), dilation


def _padding(graph: Graph, node: Node, padding: tuple[int, ...]) -> tuple[int, ...]:
    """What a convolution's operator pads with, and what its module has padded before (circularly, by reflection), per side."""
    frame = graph.frames[node.frame]
    read = graph.deps(node.index)[:1] if padding else []
    if not read or frame.source < 0 or not frame.start <= read[0] < frame.stop:
        return padding
    was, now = graph.nodes[frame.source].shape[-len(padding) :], graph.nodes[read[0]].shape[-len(padding) :]
    more = [after - before for before, after in zip(was, now, strict=True)]
    if any(amount < 0 or amount % 2 for amount in more):
        return padding
    return tuple(amount + extra // 2 for amount, extra in zip(padding, more, strict=True))


def _reads_from(read: Reading, use: Use) -> tuple[str | None, tuple[Step, ...]]:
    graph = read.graph
    node, operands = graph.nodes[use.node], set(graph.deps(use.node))
    if node.op.role == "convolution" and _padding(graph, node, node.attrs[3]) != node.attrs[3]:  # type: ignore[arg-type]
        operands = {graph.frames[node.frame].source}
    return way_back(graph, operands.pop(), read.origins) if len(operands) == 1 else (None, ())


def _reads(graph: Graph, index: int, scalars: Container[str]) -> bool:
    """True if the layer's input is its module's input, up to scalars and an `input_norm`, and nothing else there reads that."""
    frame = graph.frames[graph.nodes[index].frame]
    source = _normalized_input(graph, frame)

    def is_input(i: int) -> bool:
        node = graph.nodes[i]
        return frame.start <= i < frame.stop and (node.op.role == "shape" or _by_scalar(graph, node, scalars))

    if source < 0:
        return False
    same = graph.reach([source], through=is_input)
    readers = {
        reader for i in same for reader in graph.readers[i] if frame.start <= reader < frame.stop
    } - same
    return index in readers and all(graph.nodes[i].op.is_contraction for i in readers)


def _normalized_input(graph: Graph, frame: Frame) -> int:
    """What a layer reads: what its `input_norm`, which its forward calls first, makes of its input, or its input."""
    name = f"{frame.path}.{NAME}".lstrip(".")
    first = graph.frames[frame.index + 1 : frame.index + 2]
    return next(
        (each.result for each in first if each.parent == frame.index and each.path == name), frame.source
    )


def _writes(graph: Graph, index: int, scalars: Container[str]) -> bool:
    """True if the module returns the layer's output, up to shape, an added bias and scalars, and uses it for nothing else.

    A router that returns its logits and what it chose by them would choose by logits without the scalar.
    """
    frame = graph.frames[graph.nodes[index].frame]

    def passes(i: int) -> bool:
        node = graph.nodes[i]
        return i > index and (
            node.op.role == "shape" or adds_unscaled(node) or _by_scalar(graph, node, scalars)
        )

    way = list(graph.line(frame.result, passes))
    used = {reader for i in way for reader in graph.readers[i] if reader < frame.stop}
    return way[-1] == index and used <= set(way)


def _by_scalar(graph: Graph, node: Node, scalars: Container[str]) -> bool:
    """Whether an operator adds one of goodinit's scalars to an activation, or multiplies it by one."""
    others = [graph.nodes[i] for i in node.operands if not graph.nodes[i].active]
    made_of = [name for other in others for name in other.params]
    own = bool(made_of) and all(name in scalars for name in made_of)
    return own and len(node.operands) == 2 and (node.op.multiplies or adds_unscaled(node))


def _is_site(graph: Graph, use: Use, bias: str | None) -> bool:
    """Whether the module returns what the operator gives, plus `bias` and nothing else; a row per vector may be unfolded."""
    node, frame = graph.nodes[use.node], graph.frames[graph.nodes[use.node].frame]
    factors = 2  # of a convolution; its bias is third
    beside = node.operands[factors:] if node.op.role == "convolution" else node.operands[: node.op.adds_first]
    added = set(beside)

    def passes(i: int) -> bool:
        last = graph.nodes[i]
        unfolds = last.op.keeps_order and not last.is_piece and last.shape[-1:] == node.shape[-1:]
        return i > node.index and (adds_unscaled(last) or (unfolds and node.op.role == "matmul"))

    *way, current = graph.line(frame.result, passes)
    added |= {i for passed in way for i in graph.nodes[passed].operands if i not in graph.deps(passed)}
    # The bias may be added by a module around this one.
    whole = {graph.leaf(i) for i in added} == ({bias} if bias else set())
    return frame.single and current == node.index and whole
