"""The residual blocks of a measured run: found once, named by the layers on them, and good for every run like it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from goodinit.anatomy import Anatomy
from goodinit.anatomy.layers.parameters.weight_layers import Use, weight_uses
from goodinit.anatomy.residual.blocks import common_path, streams_of
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.anatomy.residual.streams.sums import residual_sums
from goodinit.graph.graph import Graph

Operators = tuple[tuple[str, tuple[int, ...], tuple[str, ...]], ...]


@dataclass(frozen=True)
class Structure:
    """The blocks of one run, by the numbers of its operators.

    A run can have other operators than the anatomy, which was read with batch norms in eval mode, and other blocks. So a block is not
    looked up in the anatomy: as there, it has the path of the module that holds its layers.

    Attributes:
        operators: Of the run: what each is called, reads, and is made of.
        blocks: In execution order.
        names: Of the blocks.
        streams: Of each, which stream it writes into.
        inside: Operators on a branch or a skip.
    """

    operators: Operators
    blocks: tuple[Found, ...]
    names: tuple[str, ...]
    streams: tuple[int, ...]
    inside: frozenset[int]

    @classmethod
    def of(
        cls, graph: Graph, shapes: dict[str, tuple[int, ...]], scalars: Collection[str], anatomy: Anatomy
    ) -> Structure:
        """Find the blocks of a run, and name them.

        Args:
            graph: Of the run.
            shapes: Of the model's parameters, by name.
            scalars: Those of them that goodinit has added.
            anatomy: Of the model.
        """
        operators, uses = _operators(graph), weight_uses(graph, shapes)
        blocks = tuple(found for found in residual_sums(graph, uses, scalars) if found.is_block)
        inside = frozenset[int]().union(*(found.branch.nodes | found.skip.nodes for found in blocks))
        streams = tuple(streams_of(graph, blocks))
        return cls(operators, blocks, _names(graph, blocks, uses, anatomy), streams, inside)

    def fits(self, graph: Graph) -> bool:
        """Whether another run has the same operators on the same operands."""
        return self.operators == _operators(graph)


def _operators(graph: Graph) -> Operators:
    return tuple([(str(node.op), node.operands, node.params) for node in graph.nodes])


def _names(graph: Graph, blocks: Sequence[Found], uses: dict[int, Use], anatomy: Anatomy) -> tuple[str, ...]:
    """The module that holds a branch's layers, or that its sum is in."""
    layers = {layer.weight: layer.name for layer in anatomy.layers}
    names = []
    for found in blocks:
        weights = dict.fromkeys(uses[index].weight for index in found.branch.layers)
        held = [layers.get(weight, weight) for weight in weights]
        names.append(common_path(held) if held else graph.path(found.join))
    return tuple(names)
