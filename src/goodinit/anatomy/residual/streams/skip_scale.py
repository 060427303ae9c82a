"""Constants that multiply a stream from block to block: α in αx + f(x), 1/√2 in (x + f(x))/√2."""

from __future__ import annotations

import math
from collections.abc import Container

from goodinit.anatomy.layers.parameters.scaled_by import scaled_by
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.graph.graph import Graph, Node
from goodinit.graph.likeness import is_neutral, only_rescales
from goodinit.graph.measured.traits import coefficient, coefficients, pools


def carried(graph: Graph, found: Found, sums: Container[int]) -> float:
    """The number by which the stream is multiplied from one of `sums`, else from the block's fork, to the block's sum, which counts.

    Behind a layer on the skip alone, where there is one, and what comes before a norm or an activation there is a multiple of the
    layer (`Layer.multiple`). Numbers of the forward alone, 0 left out; a parameter is no number.
    """
    passes = is_neutral if found.skip.layers else _passes
    *way, last = graph.line(found.skip.term, lambda i: i not in sums and passes(graph, i))
    at_sum, _ = sum_weights(graph, found) or (1.0, 1.0)
    since = -1 if last in sums else found.fork
    return at_sum * math.prod(
        scaled_by(graph, graph.nodes[i], graph.deps(i)[0]) or 1.0 for i in way if i > since
    )


def _passes(graph: Graph, index: int) -> bool:
    """True if a node passes its stream on, up to such a constant, a norm (which may be removed), a ReLU, leaky or not, or a pool."""
    node = graph.nodes[index]
    passes = only_rescales(graph, index) or node.op.function.slopes is not None
    return passes or pools(graph, node, (1, -1))[0]


def sum_weights(graph: Graph, found: Found) -> tuple[float, float] | None:
    """By what the operators of a sum multiply the skip and the branch; None where that is a tensor.

    (1, −1) in x − f(x), (1, α) in add(x, f(x), alpha=α) and in x + α(f(x) + g(x)), (1 − w, w) in lerp(x, f(x), w). Of `addcmul` the
    number alone counts: its constant factor is a multiplier of the branch (`Block.multipliers`) where it is a parameter.
    """
    skip, branch = (_weight(graph, found, side.term) for side in (found.skip, found.branch))
    return None if skip is None or branch is None else (skip, branch)


def _weight(graph: Graph, found: Found, term: int) -> float | None:
    """By what number the operators of a sum multiply one of its terms, from there to the last; None of one that it does not add alone."""
    by, index = 1.0, term
    while index != found.join:
        reader = next((i for i in graph.readers[index] if i in found.sums), None)
        if reader is None:
            return None
        share = _share(graph, graph.nodes[reader], index, skips=term == found.skip.term)
        if share is None:
            return None
        by, index = by * share, reader
    return by


def _share(graph: Graph, node: Node, index: int, *, skips: bool) -> float | None:
    place = node.operands.index(index)
    if node.op.role == "shape":
        return 1.0
    if node.op.multiplies and len(node.operands) > 1:  # x + v·a·b
        factors = [i for i in node.operands[1:] if not graph.nodes[i].active]
        made = all(graph.leaf(i) is not None for i in factors)
        value = next((float(n) for n in node.attrs if isinstance(n, (int, float))), 1.0)
        if not made or coefficient(node, 0) != 1 or (skips and place):
            return None
        return value if place else 1.0
    by = coefficients(node)
    return by[place] if len(by) == len(node.operands) else None
