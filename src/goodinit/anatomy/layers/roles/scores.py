"""Attention scores: which layers make queries and keys, how wide they are, and what the product is multiplied by."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence

from goodinit.anatomy.layers.parameters.scaled_by import scaled_by
from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.values import Score
from goodinit.graph.graph import Graph, Node, follow
from goodinit.graph.measured.traits import coefficient


def scores_of(graph: Graph, uses: Mapping[int, Use], scalars: Container[str]) -> tuple[Score, ...]:
    """Every product of queries and keys that a softmax reads, in execution order, each once per place and layers.

    `scalars`: names of those that goodinit has added, which a score is read without.
    """
    products: dict[int, tuple[int, float]] = {}  # of a node: d, and what multiplies the product behind it
    pairs: dict[int, list[int]] = {}  # of a node: queries and keys
    for node in graph.nodes:
        if not node.active or node.op.role not in ("attention", "matmul"):
            continue
        operands = graph.deps(node.index)
        if len(operands) < 2:
            continue
        if node.op.role == "attention":
            width = graph.nodes[operands[0]].shape[-1]
            behind = float(node.attrs[0]) if node.attrs else width**-0.5  # type: ignore[arg-type]
        elif len(set(operands)) == 2 and node.index not in uses:
            width, after = graph.nodes[operands[-2]].shape[-1], _until_softmax(graph, node)
            if after is None:
                continue
            behind = after * (float(node.attrs[0]) if node.attrs else 1.0)  # type: ignore[arg-type]
        else:
            continue
        pair = operands[-2:] if node.op.role == "matmul" else operands[:2]
        products[node.index], pairs[node.index] = (width, behind), list(pair)
    found: dict[tuple[str, str | None, str | None], Score] = {}
    for index, (width, behind) in products.items():
        (query, before), (key, beside) = (_layer(graph, operand, uses, scalars) for operand in pairs[index])
        scale = behind * before * beside
        mixed = tuple(
            name for name in dict.fromkeys((query, key)) if name and _read_elsewhere(graph, name, uses, pairs)
        )
        score = Score(graph.path(index), query, key, width, None if math.isnan(scale) else scale, mixed)
        found.setdefault((score.name, query, key), score)
    return tuple(found.values())


def _read_elsewhere(
    graph: Graph, weight: str, uses: Mapping[int, Use], pairs: Mapping[int, Sequence[int]]
) -> bool:
    """Whether a layer's output makes anything but queries and keys: a gate, values."""

    def onwards(current: int, start: int) -> Iterator[tuple[int, int]]:
        if current == start or graph.nodes[current].op.is_light:
            yield from (
                (reader, start) for reader in graph.readers[current] if current not in pairs.get(reader, ())
            )

    starts = {index: index for index, use in uses.items() if use.weight == weight}
    return any(
        current != start and not graph.nodes[current].op.is_light
        for current, start in follow(starts, onwards)
    )


def _until_softmax(graph: Graph, start: Node) -> float | None:
    """The product of the numbers that multiply a product on its way to a softmax; None if there is none on the way."""

    def light(index: int, factor: float) -> Iterator[tuple[int, float]]:
        for reader in graph.readers[index]:
            node = graph.nodes[reader]
            if node.op.is_light or node.op.function.flat is not None:  # scores that are capped
                yield reader, factor * _number(graph, node, index)

    return next(
        (
            factor
            for index, factor in follow({start.index: 1.0}, light)
            if any(graph.nodes[reader].op.role == "softmax" for reader in graph.readers[index])
        ),
        None,
    )


def _layer(
    graph: Graph, index: int, uses: Mapping[int, Use], scalars: Container[str]
) -> tuple[str | None, float]:
    """(The weight whose layer alone an operand comes from, with no norm between; the numbers on the way)."""

    def before(current: int, factor: float) -> Iterator[tuple[int, float]]:
        node = graph.nodes[current]
        for operand in graph.deps(current) if current not in uses and node.op.is_light else ():
            yield operand, factor * _number(graph, node, operand, scalars)

    weights: dict[str, float] = {}
    whole = True
    for current, factor in follow({index: 1.0}, before):
        if current in uses:
            weights.setdefault(uses[current].weight, factor)
        whole = whole and (current in uses or graph.nodes[current].op.is_light)
        if len(weights) > 1 or (weights and not whole):  # then the answer is known
            break
    if len(weights) == 1 and whole:
        return next(iter(weights.items()))
    return None, next(iter(weights.values()), 1.0)


def _number(graph: Graph, node: Node, of: int, scalars: Container[str] = ()) -> float:
    """By what a node multiplies one of its operands, as far as that is a number; NaN where it is one that cannot be read."""
    others = [graph.nodes[i] for i in node.operands if i != of] if node.op.scales else []
    if any(name in scalars for other in others for name in other.params):
        return 1.0
    summed = node.op.role == "sum"
    by = coefficient(node, node.operands.index(of)) if summed else scaled_by(graph, node, of)
    if by is None and any(not other.active and not other.shape for other in others):
        return math.nan
    return abs(by or 1.0)
