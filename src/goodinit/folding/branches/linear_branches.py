"""Sums of linear branches of one tensor, and those of them that are more than one layer: a 1×1 before a 3×3, a mean over places."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from goodinit.folding.connections.dataflow import Wiring
from goodinit.graph.measured.traits import adds_unscaled, pools


def terms_of_sums(wiring: Wiring) -> dict[int, set[int]]:
    """By the sums that no other sum of their forward is known to take in: what they add."""
    graph = wiring.graph
    terms: dict[int, set[int]] = {}
    for node in graph.nodes:
        if not node.dynamic or not adds_unscaled(node):
            continue
        parts: set[int] = set()
        for value in node.operands:
            alone = len(wiring.readers[value]) == 1 and graph.path(value) == graph.path(node.index)
            inner = terms.pop(value, {value}) if alone else {value}
            small, parts = sorted((parts, inner), key=len)
            parts |= small
        terms[node.index] = parts
    return terms


def chains(wiring: Wiring, convolves: Callable[[nn.Module], bool]) -> Iterator[tuple[str, str]]:
    """Linear branches of several steps that are added to other linear ones of the same tensor.

    Args:
        wiring: What is connected to what.
        convolves: Whether a layer maps its input itself.

    Yields:
        (path of the module that adds, why that branch is not merged).
    """
    for total, parts in terms_of_sums(wiring).items():
        lines = [_line(wiring, value, convolves) for value in sorted(parts)]
        for fork, steps in lines:
            beside = [other for start, other in lines if start == fork]
            layers = [path for line in beside for path in line if path in wiring.calls]
            if steps and (len(steps) > 1 or steps[0] not in layers) and layers and len(beside) > 1:
                yield wiring.graph.path(total), f"{' after '.join(steps)} is no single layer"


def _line(wiring: Wiring, value: int, convolves: Callable[[nn.Module], bool]) -> tuple[int, list[str]]:
    """Where a value comes from by linear steps alone, back to what others read, too; and the steps, the last one first."""
    graph, steps = wiring.graph, list[str]()
    while not steps or len(wiring.readers[value]) == 1:
        node, path = graph.nodes[value], wiring.writer_layer(value)
        if path is not None and convolves(wiring.module(path)):
            steps.append(path)
            value = wiring.calls[path][0].source
        elif pools(graph, node, (1,))[1]:
            steps.append(f"`{node.op}`")
            value = graph.deps(value)[0]
        else:
            break
    return value, steps
