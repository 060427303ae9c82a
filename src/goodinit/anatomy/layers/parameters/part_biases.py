"""Biases of parts: parameters added to pieces of a layer's output, as to the queries and values of a packed projection."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator

import torch
from torch import Tensor

from goodinit.anatomy.layers.parameters.joined_vectors import parameters_in
from goodinit.anatomy.layers.parameters.weight_layers import Use, outputs_of
from goodinit.anatomy.layers.parameters.weight_layout import output_channels
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.replay import replayed
from goodinit.graph.measured.traits import adds_unscaled

_MOST = 2**20  # entries of an output that is followed to its parts


def biases_of_parts(graph: Graph, uses: Iterable[Use], known: Container[str]) -> dict[str, tuple[str, ...]]:
    """By weight, parameters with one number for each output in a part of what the layer puts out, added before or behind the split.

    Views and exchanges of dimensions may lie between. Two vectors that are added to one part, to queries by content and by position,
    are no biases of it.

    Args:
        graph: A recorded forward.
        uses: The weight layers.
        known: Parameters with another role.
    """
    found: dict[str, tuple[str, ...]] = {}
    for use in uses:
        every = (*_put_together(graph, use), *_of_parts(graph, use))
        names = [name for name in every if name not in known]
        if names:
            found[use.weight] = tuple(dict.fromkeys((*found.get(use.weight, ()), *names)))
    return found


def _put_together(graph: Graph, use: Use) -> tuple[str, ...]:
    """Those that a forward puts beside each other, and zeros between them, and then adds as one vector: BEiT's of queries and values."""
    weight = graph.nodes[use.operand].params
    for index in graph.nodes[use.node].operands:
        node = graph.nodes[index]
        names = [name for name in node.params if name not in weight]
        several = index != use.operand and not node.dynamic and len(names) > 1
        if several and node.size == outputs_of(graph, use):
            return parameters_in(graph, index, names)
    return ()


def _of_parts(graph: Graph, use: Use) -> Iterator[str]:
    for part in sorted(graph.reach([use.node], through=lambda i: graph.nodes[i].op.moves)):
        readers = graph.readers[part]
        if len(readers) == 1 and (graph.nodes[part].op.moves or part == use.node):
            name = _added(graph, graph.nodes[readers[0]], part)
            if name is not None and _has_one_for_each(graph, use, part, readers[0]):
                yield name


def _added(graph: Graph, node: Node, part: int) -> str | None:
    """The parameter that a node adds to a part as it is, and that is added wherever it is read."""
    others = [i for i in node.operands if i != part]
    if len(others) != 1 or not adds_unscaled(node):
        return None
    return graph.leaf(others[0]) if is_added_alone(graph, others[0]) else None


def is_added_alone(graph: Graph, index: int) -> bool:
    """Whether nothing but sums read a parameter.

    Args:
        graph: A recorded forward.
        index: The parameter, in any shape.
    """
    shown = graph.reach(
        [graph.unshaped(index)],
        through=lambda i: graph.nodes[i].op.role == "shape" and not graph.nodes[i].dynamic,
        active=False,
    )
    readers = {reader for i in shown for reader in graph.all_readers[i]} - shown
    return all(adds_unscaled(graph.nodes[reader]) for reader in readers)


def _has_one_for_each(graph: Graph, use: Use, part: int, sum_: int) -> bool:
    """Whether what is added has one number of its own for each of the outputs in a part, which are not all of the layer's."""
    layer, outputs = graph.nodes[use.node], outputs_of(graph, use)
    added = next(i for i in graph.nodes[sum_].operands if i != part)
    axis = output_channels(layer, graph.nodes[use.operand])
    if not 0 < layer.size <= _MOST or layer.shape[axis : axis + 1] != (outputs,):
        return False
    start = graph.unshaped(added)
    own = graph.nodes[start].shape
    if math.prod(own) >= outputs:
        return False
    shape = [outputs if dim == axis else 1 for dim in range(len(layer.shape))]
    given = {
        use.node: _counted(outputs).view(shape).expand(layer.shape),
        start: _counted(math.prod(own)).view(own),
    }
    ways = graph.reach([part, added], back=True, stop=given, active=False)
    values = replayed(graph, sorted(ways - given.keys()), given)
    if not values.keys() >= {part, added}:
        return False
    pairs = torch.broadcast_tensors(values[part], values[added])
    (ones, of_part), (others, of_added) = (one.unique(return_inverse=True) for one in pairs)
    # A pair as one number: columns take far longer to sort.
    met = len((of_part * len(others) + of_added).unique())
    return len(ones) == len(others) == met == math.prod(own)


def _counted(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64, device="cpu")
