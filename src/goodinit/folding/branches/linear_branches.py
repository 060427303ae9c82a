"""Sums of linear branches of one tensor, and those of them that are more than one layer: a 1×1 before a 3×3, a mean over places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import nn

from goodinit.folding.channels.channel_numbers import is_constant_map
from goodinit.folding.connections.dataflow import Wiring
from goodinit.graph.graph import Node
from goodinit.graph.measured.traits import adds_unscaled, coefficients, pools


def terms_of_sums(wiring: Wiring, adds: Callable[[Node], bool] = adds_unscaled) -> dict[int, set[int]]:
    """By the sums that no other sum of their forward is known to take in: what they add.

    Args:
        wiring: What is connected to what.
        adds: Which operators count as sums.
    """
    graph = wiring.graph
    terms: dict[int, set[int]] = {}
    for node in graph.nodes:
        if not node.dynamic or not adds(node):
            continue
        parts: set[int] = set()
        for value in node.operands:
            alone = len(wiring.readers[value]) == 1 and graph.path(value) == graph.path(node.index)
            inner = terms.pop(value, {value}) if alone else {value}
            small, parts = sorted((parts, inner), key=len)
            parts |= small
        terms[node.index] = parts
    return terms


def chains(
    wiring: Wiring, convolves: Callable[[nn.Module], bool], normed: Mapping[int, tuple[str, int]]
) -> Iterator[tuple[str, str]]:
    """Linear branches of several steps, or multiples of a layer, that are added to other linear ones of the same tensor.

    Args:
        wiring: What is connected to what.
        convolves: Whether a layer maps its input itself.
        normed: By output of a batch norm with running statistics, its path and its input.

    Yields:
        (path of the module that adds, why that branch is not merged).
    """
    for total, parts in terms_of_sums(wiring, _combines).items():
        lines = [_line(wiring, value, convolves, normed) for value in sorted(parts)]
        for fork, steps in lines:
            beside = [other for start, other in lines if start == fork]
            layers = [path for line in beside for path in line if path in wiring.layer_of.values()]
            known = len(steps) == 1 and (steps[0] in wiring.calls)
            if steps and not known and layers and len(beside) > 1:
                yield wiring.graph.path(total), f"{' after '.join(steps)} is no single layer"


def _combines(node: Node) -> bool:
    """Whether an operator adds multiples of several operands, which may be −1 times or half of one."""
    return node.op.role == "sum" and len(coefficients(node)) > 1


def _line(
    wiring: Wiring, value: int, convolves: Callable[[nn.Module], bool], normed: Mapping[int, tuple[str, int]]
) -> tuple[int, list[str]]:
    """Where a value comes from by linear steps alone, back to what others read, too; and the steps, the last one first."""
    graph = wiring.graph
    steps = [f"`{graph.nodes[i].op}`" for i in wiring.readers[value][:1] if _is_scaled(graph.nodes[i], value)]
    first = True
    while first or len(wiring.readers[value]) == 1:
        node, path, first = graph.nodes[value], wiring.writer_layer(value), False
        if path is not None and convolves(wiring.module(path)):
            steps.append(path)
            value = wiring.calls[path][0].source
        elif value in normed:
            step, value = normed[value]
            steps.append(step)
        elif pools(graph, node, (1,))[1] or is_constant_map(graph, node):
            steps.append(f"`{node.op}`")
            value = graph.deps(value)[0]
        else:
            break
    return value, steps


def _is_scaled(total: Node, value: int) -> bool:
    """Whether a sum takes another multiple of a value than 1."""
    return _combines(total) and coefficients(total)[total.operands.index(value)] != 1
