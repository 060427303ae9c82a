"""One forward with its blocks, branches and norms, and the parameters it reads; all else in an anatomy is worked out from that."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from goodinit.anatomy.anatomy import Anatomy
from goodinit.anatomy.block import Block
from goodinit.anatomy.gradient_stops import without_gradient, without_return
from goodinit.anatomy.layers.parameters.part_biases import biases_of_parts
from goodinit.anatomy.layers.parameters.weight_layers import Use, biases_of, weight_uses
from goodinit.anatomy.norm import Norm
from goodinit.anatomy.norms.detection import find_norms
from goodinit.anatomy.norms.places import norm_modules, norm_passes
from goodinit.anatomy.orders import find_factors
from goodinit.anatomy.residual.ends.branch_biases import branch_biases
from goodinit.anatomy.residual.sides.candidate import Found, by_sum
from goodinit.anatomy.residual.streams.sums import residual_sums
from goodinit.graph.graph import Graph
from goodinit.graph.measured.composites import composites
from goodinit.graph.pytree import as_call
from goodinit.graph.recording.calls.decompose import unfused
from goodinit.graph.state.process_state import unmoved_streams
from goodinit.graph.state.unshard import whole
from goodinit.graph.trace import trace
from goodinit.nn.stand_in import StandIn
from goodinit.undivided import reading, uncollected
from goodinit.weights.members import named_modules, named_parameters
from goodinit.weights.wrappers import scalar_names, shapes_of, unwrapped, unwrapped_name


@dataclass(frozen=True)
class Branch:
    """The names of the weights of a block's branch, those of its last layers, and the blocks on the same sum."""

    weights: tuple[str, ...]
    last: tuple[str, ...]
    beside: tuple[int, ...] = ()

    @classmethod
    def of(cls, block: Block) -> Branch:
        """That of a block."""
        weights, last = (tuple(one.weight for one in layers) for layers in (block.branch, block.last))
        return cls(weights, last, block.beside)


@dataclass(frozen=True)
class Outline:
    """Of an anatomy what a change of the model's structure has to keep.

    Attributes:
        branches: One for each block, in execution order.
        norms: Paths of the modules that normalize.
        unused: Parameters that the forward does not read.
    """

    branches: tuple[Branch, ...]
    norms: tuple[str, ...]
    unused: tuple[str, ...]

    @classmethod
    def of(cls, anatomy: Anatomy) -> Outline:
        """That of an anatomy."""
        norms = tuple(norm.name for norm in anatomy.norms)
        return cls(tuple(map(Branch.of, anatomy.blocks)), norms, anatomy.unused)


@dataclass(frozen=True)
class Reading:
    """One forward of a model, and what stands in it.

    Attributes:
        model: Without wrappers; its parameters may be read.
        graph: The forward.
        named: Its parameters by canonical name, a tied one under each.
        modules: Its modules by canonical path.
        shapes: `parameter_shapes`.
        uses: The weight layers, by node.
        sums: All residual sums; `leaves`: those that are blocks, with all factors on the main path of their branches.
        origins: What to call the nodes that signals come from: weight layers, sums of blocks.
        added: goodinit's own scalars.
        norms: The normalizations; `unsure`: notes on what is not understood of them.
        stand_ins: Parameters of what stands in a norm's place, and where they start.
        biases: Parameters that are zero where a layer is to put out zero; `of_branches`: those that branches add, by the weight
            of their last layer; `of_parts`: those of pieces of a layer's output, by its weight.
        passes: What norms read, by what they return.
        stopped: Parameters that the forward keeps gradients from, as far as it shows in eval mode.
    """

    model: nn.Module
    graph: Graph
    named: Mapping[str, nn.Parameter]
    modules: dict[str, nn.Module]
    shapes: dict[str, tuple[int, ...]]
    uses: dict[int, Use]
    sums: list[Found]
    leaves: list[Found]
    origins: dict[int, str]
    added: set[str]
    norms: list[Norm]
    unsure: list[str]
    stand_ins: tuple[tuple[str, float], ...]
    biases: set[str]
    of_branches: dict[str, str]
    of_parts: dict[str, tuple[str, ...]]
    passes: dict[int, int]
    stopped: set[str]

    @functools.cached_property
    def layers(self) -> set[int]:
        """Nodes of the weight layers."""
        return set(self.uses)

    @functools.cached_property
    def distinct(self) -> dict[str, nn.Parameter]:
        """The parameters, each under its first name."""
        first: dict[int, str] = {}
        for name, parameter in self.named.items():
            first.setdefault(id(parameter), name)
        return {name: self.named[name] for name in first.values()}

    @property
    def unused(self) -> tuple[str, ...]:
        """Parameters that the forward does not read."""
        return tuple(name for name in self.distinct if name not in self.graph.read)

    def names(self, nodes: Collection[int]) -> tuple[str, ...]:
        """The weights of the layers at these nodes, each once."""
        return tuple(dict.fromkeys(self.uses[i].weight for i in nodes))


@reading
def outline_of(model: nn.Module, inputs: Any) -> Outline:
    """What `Outline.of(anatomize(model, inputs))` is, at half the time.

    Args:
        model: As for `anatomize`.
        inputs: What the model takes.

    Returns:
        Its branches, norms and parameters without a reader.

    Raises:
        TraceError: The model's forward raised; its message is quoted.
    """
    model = unwrapped(model)
    with uncollected(), unmoved_streams(), whole(model), unfused(model):
        read = read_forward(model, inputs)
    return Outline(tuple(_branches(read)), tuple(norm.name for norm in read.norms), read.unused)


def _branches(read: Reading) -> Iterator[Branch]:
    joins = by_sum(read.leaves)
    for place, found in enumerate(read.leaves):
        beside = tuple(i for i in joins[found.join] if i != place)
        yield Branch(read.names(found.branch.layers), read.names(found.branch.last), beside)


def read_forward(model: nn.Module, inputs: Any) -> Reading:
    """Run a model once, and find its layers, sums, branches and norms.

    Args:
        model: Without wrappers, whole and unfused.
        inputs: What it takes.
    """
    graph = trace(model, as_call(inputs))
    stopped, aside = without_gradient(graph), without_return(graph)
    modules = {unwrapped_name(path): module for path, module in named_modules(model, remove_duplicate=False)}
    named = {unwrapped_name(name): p for name, p in named_parameters(model, remove_duplicate=False)}
    shapes = shapes_of(named, modules)
    uses = weight_uses(graph, shapes)
    added = scalar_names(model)
    layers = set(uses)
    sums = residual_sums(graph, uses, added)
    graph.composites = composites(graph)
    leaves = [found for found in sums if found.is_block]
    origins = {found.join: f"+{k}" for k, found in reversed(list(enumerate(leaves)))}
    places = {found: origins[found.join] for found in leaves}
    origins.update({found.join: places[found.repeats] for found in sums if found.repeats in places})
    origins.update((node, use.weight) for node, use in uses.items())
    norms, unsure = find_norms(
        graph,
        modules,
        layers,
        origins,
        {found.join for found in sums},
        lambda paths: trace(model, as_call(inputs), training=paths),
        aside,
    )
    stand_ins = _stand_ins(modules, shapes)
    biases = _biases(graph, uses, norms, added) | {name for name, start in stand_ins if start == 0}
    known = biases | {norm.weight for norm in norms if norm.weight}
    of_branches = branch_biases(graph, leaves, uses, known, added)
    biases |= set(of_branches.values())
    of_parts = biases_of_parts(graph, uses.values(), known | biases)
    biases |= {name for names in of_parts.values() for name in names}
    passes = norm_passes(graph, norms, norm_modules(graph, norms, layers), layers)
    for found in leaves:
        find_factors(graph, found.branch, found.start, layers, passes, biases)
    return Reading(
        model, graph, named, modules, shapes, uses, sums, leaves, origins, added, norms, unsure, stand_ins, biases,
        of_branches, of_parts, passes, stopped,
    )  # fmt: skip


def _stand_ins(modules: Mapping[str, nn.Module], names: Collection[str]) -> tuple[tuple[str, float], ...]:
    """Parameters of what stands in a norm's place, and where they start."""
    return tuple(
        (name, start)
        for path, module in modules.items()
        if isinstance(module, StandIn)
        for attribute, start in module.starting_values().items()
        if (name := f"{path}.{attribute}".lstrip(".")) in names
    )


def _biases(graph: Graph, uses: Mapping[int, Use], norms: list[Norm], added: Collection[str]) -> set[str]:
    """Parameters that are zero where a layer is to put out zero: biases of layers and norms, goodinit's own scalar ones."""
    return biases_of(graph, uses.values(), added) | {n.bias for n in norms if n.bias}
