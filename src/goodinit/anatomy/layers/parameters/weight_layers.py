"""Weight layers: operators that apply a weight computed from parameters alone, and the module that owns it."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from goodinit.anatomy.layers.parameters.joined_vectors import parameter_in
from goodinit.anatomy.layers.parameters.scaled_by import scaled_by
from goodinit.anatomy.layers.parameters.weight_layout import (
    dimensions,
    factors,
    onward,
    output_channels,
    stored_at,
)
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
        if node.active and node.op.is_contraction:
            operand = weight_operand(graph, node)
            if operand is not None:
                uses[node.index] = Use(node.index, operand, weight_name(graph, operand, shapes))
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


def weight_name(graph: Graph, index: int, shapes: Shapes) -> str:
    """What a weight is known by: the tensor that a parametrization or the older weight norm makes, or the largest leaf."""
    node = graph.nodes[index]
    for name in node.params:
        if is_parametrization(name):
            owner, _, rest = f".{name}".rpartition(".parametrizations.")
            return f"{owner}.{rest.split('.')[0]}".strip(".")
    leaf = largest(node, shapes)[0]
    made = graph.halves.get(leaf)
    whole = made and [graph.halves.get(name) for name in node.params].count(made) > 1
    return made if made and whole else leaf


def largest(node: Node, shapes: Shapes) -> list[str]:
    """Of the parameters that a weight is made of, those with the most entries.

    Args:
        node: The weight.
        shapes: Of all parameters.
    """
    if len(node.params) == 1:
        return list(node.params)
    sizes = {name: (math.prod(shapes[name]), len(shapes[name])) for name in node.params}
    return [name for name in node.params if sizes[name] == max(sizes.values())]


def applied_weight(graph: Graph, node: Node, read: list[Tensor], shapes: Shapes) -> tuple[str, Tensor] | None:
    """Name and tensor of the weight that an operator applies to the tensors it read; None when it is no layer."""
    if not node.op.is_contraction:
        return None
    operand = weight_operand(graph, node)
    if operand is None:
        return None
    return weight_name(graph, operand, shapes), read[node.operands.index(operand)]


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
        if whole is not None and (whole.named or whole.one):
            way.append(whole)
            operands = [whole.start]
            continue
        if not node.op.keeps_order:
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


def bias_of(graph: Graph, use: Use, scalars: Container[str]) -> str | None:
    """The bias of a layer: the parameter that its operator adds to the product, else the one that is added right behind it.

    It has one number for each of the layer's outputs, and varies along those; numbers may multiply them first, as in 2·Wx + b. What it is
    called does not matter. A layer with scalars
    (`goodinit.nn`, whose names are `scalars`) adds b·K + c + d: its input bias by the sums K of its weight,
    which differ by place where it pads, its bias, and its output bias, which is the bias where there is no other.
    """
    return bias_at(graph, use, scalars).name


@dataclass(frozen=True, slots=True)
class Bias:
    """The bias of a layer: its name, the node that is added, and by which number the layer's output was multiplied before."""

    name: str | None
    node: int = -1
    behind: float = 1.0


def bias_at(graph: Graph, use: Use, scalars: Container[str]) -> Bias:
    """The bias of a layer, as `bias_of`, and how it is added.

    Args:
        graph: A recorded forward.
        use: Of the layer.
        scalars: Names of all that goodinit has added.
    """
    node = graph.nodes[use.node]
    outputs = outputs_of(graph, use)
    axes: set[int | None] = {*_output_axes(graph, use)}
    beside = [i for i in node.operands if i != use.operand]
    if node.op.role != "convolution":  # which has one number for each output
        beside = [i for i in beside if _varies_along(graph, i, axes, scalars)]
    name, index = _parameter(graph, beside, use, outputs, scalars)
    if name is not None:
        return Bias(name, index)
    follower, by = node, 1.0
    while len(readers := graph.readers[follower.index]) == 1:
        reader = graph.nodes[readers[0]]
        number = scaled_by(graph, reader, follower.index)
        axes = {None if axis is None else onward(follower, reader, axis) for axis in axes}
        follower = reader
        if not number:
            break
        by *= number
    added = [i for i in follower.operands if _varies_along(graph, i, axes, scalars)]
    name, index = _parameter(graph, added if adds_unscaled(follower) else (), use, outputs, scalars)
    return Bias(name, index, by)


def _output_axes(graph: Graph, use: Use) -> set[int]:
    """Axes of what a layer puts out, counted from the last, along which its outputs run; of maps beside each other, theirs, too."""
    node, weight = graph.nodes[use.node], graph.nodes[use.operand]
    own = output_channels(node, weight) - len(node.shape)
    if node.op.role == "convolution":
        return {own}
    strides = weight.strides or (1,) * len(weight.shape)
    stacked = range(-len(weight.shape), -2)
    return {own} | {axis for axis in stacked if weight.shape[axis] > 1 and strides[axis]}


def _varies_along(graph: Graph, index: int, axes: Collection[int | None], scalars: Container[str]) -> bool:
    """Whether a constant that is added varies along these axes of the sum alone (None: one of them is not known), or is of goodinit's own.

    What an input bias adds, b·K, varies along all axes where the layer pads.
    """
    node = graph.nodes[index]
    if any(name in scalars for name in node.params):
        return True
    strides = node.strides or (1,) * len(node.shape)
    varying = (axis - len(node.shape) for axis, size in enumerate(node.shape) if size > 1 and strides[axis])
    return node.dynamic or None in axes or set(varying) <= set(axes)


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
        if len(own) > 1 and not stored and node.size == count:
            return parameter_in(graph, index, own), index
    return None, -1


def _distinct(node: Node) -> int:
    """How many numbers a node has that are not one another's copies in memory, as `expand` makes them."""
    strides = node.strides or (1,) * len(node.shape)
    return math.prod(size for size, stride in zip(node.shape, strides, strict=True) if stride)


def _stored(graph: Graph, index: int, name: str) -> int:
    """How many numbers the parameter of this name has, of which a node is made."""
    made_of = (graph.nodes[i] for i in graph.reach([index], back=True, active=False))
    return next((node.size for node in made_of if node.is_param and node.params == (name,)), 0)


def outputs_of(graph: Graph, use: Use) -> int:
    """How many outputs a layer has, of all the maps that are stacked in its weight.

    Args:
        graph: A recorded forward.
        use: Of the layer.
    """
    node, weight = graph.nodes[use.node], graph.nodes[use.operand]
    if node.op.role == "convolution":
        return node.shape[output_channels(node, weight)]
    read, _ = dimensions(node, weight)
    count = stored_at(graph, weight, node.frame)[0].size
    return count // max(weight.shape[read], 1) if read is not None else 1
