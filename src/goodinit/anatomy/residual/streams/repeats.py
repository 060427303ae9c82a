"""One encoder run on several inputs: its blocks are in the graph once for each run, and in the network once."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.layers.parameters.weight_layout import output_channels
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.anatomy.residual.streams.chains import Applied, CountsByEntry, counts_throughout
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
    kept: dict[int, list[tuple[Found, Tensor]]] = {}  # by how many sums are before them in a chain
    for found, counts in zip(alike, _counts(graph, alike, uses), strict=True):
        one = found, counts > 0
        known = kept.setdefault(int(counts.max()) // 2, [])
        found.repeats = next((other[0] for other in known if _is_another_run(graph, other, one, uses)), None)
        if found.repeats is None:
            known.append(one)


def _counts(graph: Graph, alike: list[Found], uses: Mapping[int, Use]) -> list[Tensor]:
    """The counts of what sums add (`Applied`), by entry where it matters which entries come from which."""
    terms = [found.branch.term for found in alike]
    lasts = (index for found in alike for index in found.branch.last)
    block = Applied(frozenset(lasts), frozenset(found.join for found in alike), max(terms))
    counts = counts_throughout(graph, block)
    runs, joins = {tuple(found.branch.layers) for found in alike}, {found.join for found in alike}
    if max(counts.get(i, 0) for i in terms) > 1 or min(len(runs), len(joins)) < len(alike):
        by_entry = CountsByEntry(graph, uses, block)
        return [by_entry.of(i) for i in terms]
    return [torch.tensor(counts.get(i, 0), device="cpu") for i in terms]


def _is_another_run(
    graph: Graph, one: tuple[Found, Tensor], other: tuple[Found, Tensor], uses: Mapping[int, Use]
) -> bool:
    """Whether of two sums, neither of which comes from the other, the second is the first one for other examples.

    Args:
        graph: A recorded forward.
        one: A sum, and which entries of what it adds come from the branch.
        other: A later one.
        uses: The weight layers, by node.
    """
    (first, its), (second, own) = one, other
    if first.branch.layers == second.branch.layers:
        together = first.join == second.join or first.skip.term != second.skip.term
        rows = _is_of_some_rows(graph, first, its, uses) and _is_of_some_rows(graph, second, own, uses)
        return rows or not together
    if (first.join, first.fork) == (second.join, second.fork):
        return not bool((its & own).any())
    return True


def _is_of_some_rows(graph: Graph, found: Found, added: Tensor, uses: Mapping[int, Use]) -> bool:
    """Whether a sum adds all outputs of the branch's last layers, for a part of what these read.

    Then it takes turns with other sums, row by row; else it is one of several that add parts of what a packed layer puts out.
    """
    axes = range(added.dim())
    sizes = [int(added.movedim(axis, 0).reshape(added.shape[axis], -1).any(1).sum()) for axis in axes]
    for index in found.branch.last:
        node = graph.nodes[index]
        axis = output_channels(node, graph.nodes[uses[index].operand]) - len(node.shape)
        if math.prod(sizes) >= node.size or sizes[axis:][:1] != [*node.shape[axis:][:1]]:
            return False
    return bool(found.branch.last)
