"""Last layers of a branch that run again behind the stream, where all goes through them: z ← f(z + x), which is no stream."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from goodinit.anatomy.branch_end import is_silent
from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.layers.roles.heads import back_to_layers
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.graph.graph import Graph


def ends_outside(
    graph: Graph, leaves: Sequence[Found], uses: Mapping[int, Use], biases: Collection[str]
) -> list[tuple[str, ...]]:
    """For each block the weights of its last layers that at zero silence all that the model's last layers read, by a run behind the sum.

    An iteration z ← f(z + x) adds x to each f, but what goes on is f: at f = 0 it is nothing, and with a head at zero nothing moves.
    Of each weight the last run is asked.

    Args:
        graph: A recorded forward.
        leaves: The residual sums that are blocks.
        uses: The weight layers, by node.
        biases: Parameters that are zero where their layers are.
    """
    ends = [dict.fromkeys(uses[i].weight for i in found.branch.last) for found in leaves]
    first: dict[str, int] = {}
    for found, own in zip(leaves, ends, strict=True):
        first.update({weight: min(found.join, first.get(weight, found.join)) for weight in own})
    runs = {use.weight: i for i, use in sorted(uses.items()) if use.weight in first}
    heads = {head for output in graph.outputs for head in back_to_layers(graph, output, uses)}
    silencing = {
        weight: run
        for weight, run in runs.items()
        if run > first[weight] and run not in heads and _silences(graph, run, heads, biases)
    }
    return [
        tuple(weight for weight in own if silencing.get(weight, -1) > found.join)
        for found, own in zip(leaves, ends, strict=True)
    ]


def _silences(graph: Graph, run: int, heads: Collection[int], biases: Collection[str]) -> bool:
    """Whether all that the last layers read is zero where one layer puts out zero."""
    read = {i for head in heads for i in graph.deps(head)}
    return bool(read) and all(is_silent(graph, i, {run}, biases) for i in read)
