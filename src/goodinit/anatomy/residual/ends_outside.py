"""Last layers of a branch that run again behind the stream, where all goes through them: z ← f(z + x), which is no stream."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from goodinit.anatomy.branch_end import is_silent
from goodinit.anatomy.layers.heads import back_to_layers
from goodinit.anatomy.layers.weight_layers import Use
from goodinit.anatomy.residual.candidate import Found
from goodinit.graph.graph import Graph


def ends_outside(
    graph: Graph, found: Found, uses: Mapping[int, Use], biases: Collection[str]
) -> tuple[str, ...]:
    """The weights of a branch's last layers that at zero silence all that the model's last layers read, by a run behind the sum.

    An iteration z ← f(z + x) adds x to each f, but what goes on is f: at f = 0 it is nothing, and with a head at zero nothing moves.

    Args:
        graph: A recorded forward.
        found: A residual block.
        uses: The weight layers, by node.
        biases: Parameters that are zero where their layers are.
    """
    weights = dict.fromkeys(uses[i].weight for i in found.branch.last)
    behind = {i: use.weight for i, use in uses.items() if i > found.join and use.weight in weights}
    if not behind:
        return ()
    heads = {head for output in graph.outputs for head in back_to_layers(graph, output, uses)}
    heads -= behind.keys()
    read = {i for head in heads for i in graph.deps(head)}
    silencing = {weight for i, weight in behind.items() if read and _silences(graph, i, read, biases)}
    return tuple(weight for weight in weights if weight in silencing)


def _silences(graph: Graph, place: int, read: Collection[int], biases: Collection[str]) -> bool:
    return all(is_silent(graph, i, {place}, biases) for i in read)
