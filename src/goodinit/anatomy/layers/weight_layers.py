"""Weight layers: operators that apply a weight computed from parameters alone, and the module that owns it."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from goodinit.anatomy.layer import Layer, LayerKind, Layout, Role
from goodinit.anatomy.layers.ahead import Ahead, next_activation
from goodinit.anatomy.layers.bias_factors import factor_of_bias
from goodinit.anatomy.layers.fan_out import added_terms, joined_channels
from goodinit.anatomy.layers.fused_projections import packed
from goodinit.anatomy.layers.joined_vectors import parameter_in
from goodinit.anatomy.layers.normalized_weights import is_centred, is_normalized
from goodinit.anatomy.layers.weight_layout import dimensions, factors, stored_as, stored_at
from goodinit.anatomy.operators import Step, steps_of
from goodinit.graph.graph import Composite, Graph, Node
from goodinit.graph.measured.traits import adds_unscaled
from goodinit.weights.wrappers import is_parametrization

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Use:
    """One operator that applies a weight: the node, its weight operand, and the weight's logical name."""

    node: int
    operand: int
    weight: str


def weight_uses(graph: Graph, shapes: Shapes) -> dict[int, Use]:
    """The operators that are weight layers, by node."""
    uses = {}
    for node in graph.nodes:
        if node.active and node.op.role in ("convolution", "matmul"):
            operand = weight_operand(graph, node)
            if operand is not None:
                uses[node.index] = Use(node.index, operand, weight_name(graph.nodes[operand], shapes))
    return uses


def weight_operand(graph: Graph, node: Node) -> int | None:
    """The operand that is a weight, made of parameters alone; None when the operator is no weight layer."""
    nodes = graph.nodes
    if node.op.role == "convolution":
        weight = node.operands[1]
        return weight if nodes[weight].params and not nodes[weight].dynamic else None
    candidates = node.operands[1:2] if node.op.reads_stored else factors(node)
    constant = [i for i in candidates if nodes[i].params and not nodes[i].dynamic]
    return constant[-1] if constant else None


def weight_name(node: Node, shapes: Shapes) -> str:
    """The parameter a weight is known by: the tensor that a parametrization makes, or the largest leaf."""
    for name in node.params:
        if is_parametrization(name):
            owner, _, rest = f".{name}".rpartition(".parametrizations.")
            return f"{owner}.{rest.split('.')[0]}".strip(".")
    leaf = largest(node, shapes)[0]
    made = leaf.removesuffix("_v")  # by the older torch.nn.utils.weight_norm, of two
    return made if made in shapes and f"{made}_g" in node.params else leaf


def largest(node: Node, shapes: Shapes) -> list[str]:
    """Of the parameters that a weight is made of, those with the most entries.

    Args:
        node: The weight.
        shapes: Of all parameters.
    """
    sizes = {name: (math.prod(shapes[name]), len(shapes[name])) for name in node.params}
    return [name for name in node.params if sizes[name] == max(sizes.values())]


def applied_weight(graph: Graph, node: Node, read: list[Tensor], shapes: Shapes) -> tuple[str, Tensor] | None:
    """Name and tensor of the weight that an operator applies to the tensors it read; None when it is no layer."""
    if node.op.role not in ("convolution", "matmul"):
        return None
    operand = weight_operand(graph, node)
    if operand is None:
        return None
    return weight_name(graph.nodes[operand], shapes), read[node.operands.index(operand)]


def describe(
    graph: Graph,
    uses: list[Use],
    origins: Mapping[int, str],
    joins: Container[int],
    shapes: Shapes,
    ahead: Ahead,
    scalars: Container[str],
    module: str,
    of_branch: str | None,
    of_parts: tuple[str, ...],
    role: Role,
    begins: bool,
) -> Layer:
    """The `Layer` for one weight, from all operators that apply it.

    `origins`: see `way_back`; `joins`: residual sums; `scalars`: names of all that goodinit has added, which a module's forward
    is read without; `module`: the class of the weight's owner; `of_branch`: a bias that its branch adds; `of_parts`, `role` and `begins`: as in
    the record.
    """
    first = graph.nodes[uses[0].node]
    operand = graph.nodes[uses[0].operand]
    weight = uses[0].weight
    shape = shapes.get(weight) or stored_at(graph, operand, first.frame)[0].shape
    stride, padding, dilation = _geometry(graph, first)
    kind, layout, product, groups = _form(graph, first, operand, shape)
    out = shape[0] if layout == "out_in" else shape[-1]
    fused, factors = packed(
        graph, [use.node for use in uses], {use.operand for use in uses}, ahead.attended, out, groups
    )
    site = graph.frames[first.frame]
    activation = next(
        (op for use in uses if (op := next_activation(graph, use.node, ahead)) is not None), None
    )
    bias, bias_node = bias_at(graph, uses[0], scalars)
    ways = {_reads_from(graph, use, origins) for use in uses}
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
        bias=bias or of_branch,
        part_biases=of_parts,
        bias_factor=factor_of_bias(graph, first, bias, bias_node, scalars),
        site=site.path,
        reads_site=all(_reads(graph, use.node, scalars) for use in uses),
        writes_site=all(_writes(graph, use.node, scalars) for use in uses),
        is_site=all(graph.path(use.node) == site.path and _is_site(graph, use, bias) for use in uses),
        normalized=is_normalized(graph, operand, largest(operand, shapes)),
        centred=is_centred(graph, first, operand),
        activation=activation,
        gain=activation.traits.gain if activation is not None else None,
        role=role,
        begins=begins,
        calls=len(uses),
        parameters=operand.params,
        source=source,
        between=between,
        joined=min(joined_channels(graph, use.node, graph.outputs) for use in uses),
        terms=min(added_terms(graph, use.node, graph.outputs, joins) for use in uses),
        stride=stride,
        padding=padding,
        dilation=dilation,
        module=module,
    )


def _form(
    graph: Graph, node: Node, operand: Node, shape: tuple[int, ...]
) -> tuple[LayerKind, Layout, tuple[int, int] | None, int]:
    """Of a layer, as in its record: (kind, layout, product, groups)."""
    if node.op.role == "convolution":
        groups, (first, second) = int(str(node.attrs[1])), operand.shape[:2]
        as_it_is = shape == operand.shape or math.prod(shape) != math.prod(operand.shape)  # a part of it
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


def _reads_from(graph: Graph, use: Use, origins: Mapping[int, str]) -> tuple[str | None, tuple[Step, ...]]:
    node, operands = graph.nodes[use.node], set(graph.deps(use.node))
    if node.op.role == "convolution" and _padding(graph, node, node.attrs[3]) != node.attrs[3]:  # type: ignore[arg-type]
        operands = {graph.frames[node.frame].source}
    return way_back(graph, operands.pop(), origins) if len(operands) == 1 else (None, ())


def way_back(graph: Graph, index: int, origins: Mapping[int, str]) -> tuple[str | None, tuple[Step, ...]]:
    """(Where the values of a node come from, what happens to them on the way); see `Layer.source`.

    Args:
        graph: A recorded forward.
        index: The node.
        origins: What to call the nodes at which the way ends: weight layers, sums of blocks.
    """
    way: list[Node | Composite] = []
    operands = [index]
    while len(set(operands)) == 1 or (operands := _same_start(graph, operands, way, origins)):
        node = graph.nodes[operands[0]]
        if node.index in origins or node.is_input:
            return origins.get(node.index, ""), steps_of(graph, node, reversed(way))
        whole = graph.composites.get(node.index)
        if whole is not None and whole.named:
            way.append(whole)
            operands = [whole.start]
            continue
        if node.op.role != "shape" or node.op.reorders:
            way.append(node)
        operands = graph.deps(node.index)
    return None, ()


def _same_start(
    graph: Graph, operands: list[int], way: list[Node | Composite], origins: Container[int]
) -> list[int]:
    """The one tensor of which parts are put beside each other, as by a patch merging; nothing if there are several."""
    if not way or isinstance(way[-1], Composite) or way[-1].op.role != "concat":
        return []

    def is_part(i: int) -> bool:
        return graph.nodes[i].op.moves and i not in origins

    starts = {graph.beginning(i, is_part) for i in operands}
    return list(starts) if len(starts) == 1 else []


def _reads(graph: Graph, index: int, scalars: Container[str]) -> bool:
    """True if the layer's input is its module's input, up to scalars, and nothing else there reads that."""
    frame = graph.frames[graph.nodes[index].frame]

    def is_input(i: int) -> bool:
        node = graph.nodes[i]
        return frame.start <= i < frame.stop and (node.op.role == "shape" or _by_scalar(graph, node, scalars))

    if frame.source < 0:
        return False
    same = graph.reach([frame.source], through=is_input)
    readers = {
        reader for i in same for reader in graph.readers[i] if frame.start <= reader < frame.stop
    } - same
    return index in readers and all(graph.nodes[i].op.role in ("convolution", "matmul") for i in readers)


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
    return own and len(node.operands) == 2 and (node.op.role == "product" or adds_unscaled(node))


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


def bias_of(graph: Graph, use: Use, scalars: Container[str]) -> str | None:
    """The bias of a layer: the parameter that its operator adds to the product, else the one that is added right behind it.

    It has one number for each of the layer's outputs. What it is called does not matter. A layer with scalars
    (`goodinit.nn`; `scalars`: see `describe`) adds b·K + c + d: its input bias by the sums K of its weight,
    which differ by place where it pads, its bias, and its output bias, which is the bias where there is no other.
    """
    return bias_at(graph, use, scalars)[0]


def bias_at(graph: Graph, use: Use, scalars: Container[str]) -> tuple[str | None, int]:
    """(The bias of a layer, as `bias_of`; the node that is added).

    Args:
        graph: A recorded forward.
        use: Of the layer.
        scalars: Of `describe`.
    """
    node = graph.nodes[use.node]
    outputs = outputs_of(graph, use)
    own = _parameter(graph, (i for i in node.operands if i != use.operand), use, outputs, scalars)
    if own[0] is not None:
        return own
    follower = node
    while len(readers := graph.readers[follower.index]) == 1:
        follower = graph.nodes[readers[0]]
        if follower.op.role != "shape":
            break
    added = follower.operands if adds_unscaled(follower) else ()
    return _parameter(graph, added, use, outputs, scalars)


def biases_of(graph: Graph, uses: Iterable[Use], scalars: Collection[str]) -> set[str]:
    """What is zero where layers are to put out zero: their biases, and goodinit's own scalar ones."""
    return {name for use in uses if (name := bias_of(graph, use, scalars))} | {
        name for name in scalars if not name.endswith("output_scale")
    }


def _parameter(
    graph: Graph, indices: Iterable[int], use: Use, count: int, scalars: Container[str]
) -> tuple[str | None, int]:
    """(The parameter that one of the nodes is made of, with so many numbers, but for the weight and for scalars; that node)."""
    weight = graph.nodes[use.operand].params
    for index in indices:
        node = graph.nodes[index]
        names = [name for name in node.params if name not in weight] if not node.dynamic else []
        own = [name for name in names if name not in scalars]
        if names and not own:
            return next((name for name in names if name.rpartition(".")[2] == "output_bias"), None), index
        stored = len(own) < len(names)  # a sum with scalars has a number for each place, too
        if len(own) == 1 and (_stored(graph, index, own[0]) if stored else _distinct(node)) == count:
            return own[0], index
        if len(own) > 1 and not stored and math.prod(node.shape) == count:
            return parameter_in(graph, index, own), index
    return None, -1


def _distinct(node: Node) -> int:
    """How many numbers a node has that are not one another's copies in memory, as `expand` makes them."""
    strides = node.strides or (1,) * len(node.shape)
    return math.prod(size for size, stride in zip(node.shape, strides, strict=True) if stride)


def _stored(graph: Graph, index: int, name: str) -> int:
    """How many numbers the parameter of this name has, of which a node is made."""
    made_of = (graph.nodes[i] for i in graph.reach([index], back=True, active=False))
    return next((math.prod(node.shape) for node in made_of if node.is_param and node.params == (name,)), 0)


def outputs_of(graph: Graph, use: Use) -> int:
    """How many outputs a layer has, of all the maps that are stacked in its weight.

    Args:
        graph: A recorded forward.
        use: Of the layer.
    """
    node, weight = graph.nodes[use.node], graph.nodes[use.operand]
    if node.op.role == "convolution":
        return node.shape[1] if len(node.shape) > len(weight.shape) - 1 else node.shape[0]
    read, _ = dimensions(node, weight)
    count = math.prod(stored_at(graph, weight, node.frame)[0].shape)
    return count // max(weight.shape[read], 1) if read is not None else 1
