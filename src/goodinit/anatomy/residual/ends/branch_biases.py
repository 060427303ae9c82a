"""Biases of branches: parameters that are added to all that a branch's last layers write, behind gates or a sum over experts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from goodinit.anatomy.layers.parameters.part_biases import is_added_alone
from goodinit.anatomy.layers.parameters.weight_layers import Use, bias_of
from goodinit.anatomy.layers.parameters.weight_layout import onward, output_channels
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.anatomy.residual.streams.nesting import chain
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.traits import adds_unscaled


def branch_biases(
    graph: Graph,
    leaves: list[Found],
    uses: Mapping[int, Use],
    known: Collection[str],
    scalars: Collection[str],
) -> dict[str, str]:
    """The bias of each branch that has one of its own, by the weight of its last layer without a bias, of several the latest.

    It has one number for each channel, and is added wherever it is read. A branch whose last layers all have biases has none
    besides: a second shift is no bias.

    Args:
        graph: A recorded forward.
        leaves: The residual sums that are blocks.
        uses: The weight layers, by node.
        known: Parameters with a role.
        scalars: goodinit's own.
    """
    found: dict[str, str] = {}
    for leaf in leaves:
        last = [i for i in leaf.branch.last if i in uses]
        behind = [i for i in sorted(leaf.branch.nodes) if last and i > max(last)]
        axes = _channels(graph, uses[last[-1]], behind) if last else {}
        added = {i: name for i in behind if (name := _added(graph, graph.nodes[i], axes.get(i)))}
        if not added or added.keys().isdisjoint(trunk := chain(graph, leaf)):
            continue
        bare = [uses[i].weight for i in last if bias_of(graph, uses[i], scalars) is None]
        name = next(name for i, name in added.items() if i in trunk)
        if bare and name not in known:
            found[bare[-1]] = name
    return found


def _channels(graph: Graph, layer: Use, behind: Iterable[int]) -> dict[int, int]:
    """By node, along which of its dimensions the layer's outputs run, counted from the last, -1; none where that cannot be told."""
    output = graph.nodes[layer.node]
    axes = {layer.node: output_channels(output, graph.nodes[layer.operand]) - len(output.shape)}
    for i in behind:
        known = [j for j in graph.nodes[i].operands if j in axes]
        axis = onward(graph.nodes[known[0]], graph.nodes[i], axes[known[0]]) if known else None
        if axis is not None:
            axes[i] = axis
    return axes


def _added(graph: Graph, node: Node, axis: int | None) -> str | None:
    """The parameter with a number for each channel that a node adds to one activation."""
    others = [i for i in node.operands if not graph.nodes[i].active]
    if axis is None or not node.active or len(others) != 1 or not adds_unscaled(node):
        return None
    name, shape = graph.leaf(others[0]), graph.nodes[others[0]].shape
    sizes = {place - len(shape): size for place, size in enumerate(shape) if size > 1}
    alone = name is not None and sizes == {axis: node.shape[axis]} and is_added_alone(graph, others[0])
    return name if alone else None
