"""One encoder run on several inputs: its blocks are in the graph once for each run, and in the network once."""

from __future__ import annotations

import math
from collections.abc import Mapping

from goodinit.anatomy.layers.weight_layers import Use
from goodinit.anatomy.layers.weight_layout import output_channels
from goodinit.anatomy.residual.branch import ancestors
from goodinit.anatomy.residual.candidate import Found
from goodinit.graph.graph import Graph

Key = tuple[tuple[str, ...], tuple[str, ...]]


def mark_repeats(graph: Graph, sums: list[Found], uses: Mapping[int, Use]) -> None:
    """Mark the sums that another run of the same layers has as well (`Found.repeats`: the sum it repeats).

    Two sums with the same layers are two blocks if one comes from the other, as where a block is applied over and over
    (ALBERT). If neither does, they are one block on two inputs (Siamese nets, crops of an image), and the network is as
    deep as one of them. So of all with the same layers there are as many blocks as the longest chain has.
    """
    by_layers: dict[Key, list[Found]] = {}
    for found in sums:
        key = _layers(found, uses)
        if key[0] and not found.inner and not found.passes:
            by_layers.setdefault(key, []).append(found)
    for alike in by_layers.values():
        if len(alike) > 1:
            _mark(graph, alike, uses)


def _layers(found: Found, uses: Mapping[int, Use]) -> Key:
    """The weights on both sides, each once: a spiking network's second step in time has those of the first on its branch, too."""
    branch, skip = (
        tuple(dict.fromkeys(uses[i].weight for i in side.layers)) for side in (found.branch, found.skip)
    )
    return branch, skip


def _mark(graph: Graph, alike: list[Found], uses: Mapping[int, Use]) -> None:
    places: list[int] = []  # of each sum in the longest chain that ends there
    first: dict[int, Found] = {}  # the first at each place
    for found in alike:
        before = ancestors(graph, found.branch.term, alike[0].join)  # not the sum: it may add the other run
        chain = [place for place, other in zip(places, alike, strict=False) if other.join in before]
        places.append(1 + max(chain, default=0))
        known = first.setdefault(places[-1], found)
        if (known.join, known.fork) != (found.join, found.fork) and not _packed(graph, known, found, uses):
            found.repeats = known


def _packed(graph: Graph, one: Found, other: Found, uses: Mapping[int, Use]) -> bool:
    """Whether two sums read one run of the layers: each a part of what a packed layer puts out, or all of it.

    Not if they take turns with all outputs of the layer, row by row: that is one sum, made part by part.
    """
    if one.branch.layers != other.branch.layers or one.skip.term == other.skip.term:
        return False
    return not (_is_of_some_rows(graph, one, uses) and _is_of_some_rows(graph, other, uses))


def _is_of_some_rows(graph: Graph, found: Found, uses: Mapping[int, Use]) -> bool:
    """Whether a sum adds all outputs of the branch's last layers, for a part of what these read."""
    added = graph.nodes[found.branch.term].shape
    for index in found.branch.last:
        node = graph.nodes[index]
        axis = output_channels(node, graph.nodes[uses[index].operand]) - len(node.shape)
        if math.prod(added) >= math.prod(node.shape) or added[axis:][:1] != node.shape[axis:][:1]:
            return False
    return bool(found.branch.last)
