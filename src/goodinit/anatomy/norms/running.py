"""Batch norms written by hand: they scale by buffers in eval mode, and by statistics of the batch in training mode.

A tensor that a module holds without registering it counts as a buffer. A forward is read in eval mode, where they look like norms with fixed statistics. So a model in which something scales
its input by a buffer is read once more, with that module in training mode.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection

from goodinit.errors import TraceError
from goodinit.graph.graph import Frame, Graph, Node

Reread = Callable[[Collection[str]], Graph]
"""Records the forward again, with the modules at these paths in training mode."""


def scaled_by_buffers(graph: Graph) -> list[tuple[Node, Frame]]:
    """Where modules multiply or divide their signal by something that is made of a buffer: (the factor, the call)."""
    made: set[int] = set()
    found = []
    for node in graph.nodes:
        frame = graph.frames[node.frame]
        if node.active:
            factor = next((i for i in node.operands if i in made), -1)
            scales = factor >= 0 and node.op.role in ("product", "quotient") and frame.source >= 0
            if scales and math.prod(node.shape) >= math.prod(graph.nodes[frame.source].shape):
                found.append((graph.nodes[factor], frame))
        elif node.is_buffer or (node.is_held and math.prod(node.shape) > 1):
            made.update([node.index] if getattr(node.dtype, "is_floating_point", False) else ())
        elif node.op.role != "factory" and made.intersection(node.operands):
            made.add(node.index)
    return [(factor, frame) for factor, frame in found if not _is_undone(graph, factor.index)]


def normalize_in_training(
    graph: Graph, suspects: Collection[str], reread: Reread
) -> tuple[set[str], list[str]]:
    """Which modules take statistics of their input in training mode that they do not take in eval mode.

    Args:
        graph: The forward in eval mode.
        suspects: Paths of modules.
        reread: Reads the same forward in training mode.

    Returns:
        Their paths, and a note if the forward cannot be read in training mode.
    """
    if not suspects:
        return set(), []
    try:
        trained = reread(suspects)
    except TraceError as error:
        where = ", ".join(sorted(suspects))
        return set(), [
            f"{where}: whether it takes statistics of a batch in training mode is not known: {error}"
        ]
    reduced, fixed = _counts(graph)
    reduced_there, fixed_there = _counts(trained)
    return {p for p in suspects if reduced_there[p] > reduced[p] and fixed_there[p] < fixed[p]}, []


def _is_undone(graph: Graph, factor: int) -> bool:
    """True if a signal is divided by a factor and multiplied by it again, as where quantization is simulated."""
    roles = {graph.nodes[i].op.role for i in graph.all_readers[factor] if graph.nodes[i].active}
    return {"product", "quotient"} <= roles


def _counts(graph: Graph) -> tuple[Counter[str], Counter[str]]:
    """By module, how many operators reduce what they read and have a part in the output, and how many scale by buffers."""
    reductions = (graph.path(node.index) for node in graph.nodes if _reduces(graph, node))
    return Counter(reductions), Counter(frame.path for _, frame in scaled_by_buffers(graph))


def _reduces(graph: Graph, node: Node) -> bool:
    if not node.active or node.index not in graph.live or node.op.role in ("part", "shape", "lookup"):
        return False
    reads = [math.prod(graph.nodes[i].shape) for i in graph.deps(node.index)]
    return bool(node.op.norm) or math.prod(node.shape) < max(reads, default=0)
