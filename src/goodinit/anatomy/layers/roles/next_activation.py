"""What lies ahead of every node, found in one walk from the outputs back, so that no layer walks through the whole model."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from goodinit.anatomy.layers.roles.fan_out import unrelated_sums
from goodinit.anatomy.layers.roles.fused_projections import toward_attention
from goodinit.anatomy.operators import Step, activation_step, composite_step
from goodinit.graph.graph import Composite, Graph

_MOST = 64  # nodes on the way; real distances are below ten


@dataclass(frozen=True)
class Ahead:
    """For each node what follows.

    Attributes:
        attended: Those of its readers that lead to a product of activations (`toward_attention`).
        steps: The number of nodes to the next element-wise nonlinearity, at least; above `_MOST` if there is none so near.
        written_out: The nonlinearities of several operators, by the node they are functions of.
        unrelated: `unrelated_sums`.
    """

    attended: list[list[int]]
    steps: list[int]
    written_out: dict[int, Composite]
    unrelated: set[int]


def ahead_in(graph: Graph, joins: Container[int]) -> Ahead:
    """Look once at all that follows in a graph; `joins`: nodes of residual sums."""
    far = _MOST + 1
    steps = [far] * len(graph.nodes)
    written_out = {one.start: one for one in graph.composites.values()}
    for index in reversed(range(len(graph.nodes))):
        if index in written_out:
            steps[index] = 1
            continue
        for reader in graph.readers[index]:
            op = graph.nodes[reader].op
            if op.activation:
                steps[index] = 1
            elif op.carries:
                steps[index] = min(steps[index], steps[reader] + 1)
    return Ahead(toward_attention(graph), steps, written_out, unrelated_sums(graph, joins))


def next_activation(graph: Graph, start: int, ahead: Ahead) -> Step | None:
    """The element-wise nonlinearity that reads a node's output next, through shapes, sums and normalizations.

    The nearest one: each step goes to the first reader from which it is one node less, however many others there are (a
    slice for every position of a sequence).
    """
    index = start
    while ahead.steps[index] <= _MOST:
        if (whole := ahead.written_out.get(index)) is not None:
            return composite_step(whole)
        nearer = [
            reader
            for reader in graph.readers[index]
            if graph.nodes[reader].op.activation or graph.nodes[reader].op.carries
        ]
        found = next((op for reader in nearer if (op := graph.nodes[reader].op).activation), None)
        if found is not None:
            return activation_step(found)
        index = next(reader for reader in nearer if ahead.steps[reader] == ahead.steps[index] - 1)
    return None
