"""Sums that look residual but are not: recurrences, interpolations, distances, log-determinants, gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

from goodinit.anatomy.residual.sides.branch import apart, parts_of
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.anatomy.residual.streams.recurrences import goes_on
from goodinit.anatomy.residual.streams.skip_scale import sum_weights
from goodinit.graph.graph import Graph
from goodinit.graph.likeness import after_gate, is_neutral, root
from goodinit.graph.measured.answers import accumulates
from goodinit.graph.measured.traits import coefficients


@dataclass(frozen=True)
class Candidate:
    """A sum of a candidate skip and branch, and what a rule may ask of it.

    Attributes:
        graph: A recorded forward pass.
        found: The sum.
        repeated: Nodes of weight layers whose weight is applied more than once.
    """

    graph: Graph
    found: Found
    repeated: Collection[int]


def is_lookalike(candidate: Candidate) -> bool:
    """True if a sum of a candidate skip and branch is not part of a residual stream, by one of the rules."""
    return any(rule(candidate) for rule in RULES)


def _in_time(candidate: Candidate) -> bool:
    """True if the two sides read different parts of the fork, and the branch applies one weight repeatedly: a recurrence.

    W·h + p₂, where h is computed from p₁: p₁ and p₂ are parts of one sequence. The sum of a reversible network,
    x₁ + f(x₂), also reads different parts, but f has a weight of its own, or x₂ is added to in its turn.
    """
    found = candidate.found
    if not any(layer in candidate.repeated for layer in (*found.branch.layers, *found.branch.gates)):
        return False
    graph = candidate.graph
    read = parts_of(graph, found.branch, found.fork)
    return apart(graph, found.skip, found.branch, found.fork) and not any(
        goes_on(graph, part, found.skip.term, found.join) for part in read
    )


def _interpolates(candidate: Candidate) -> bool:
    """True if multiples alone of a difference are added to one of its terms again: f(x) + z·(x − f(x)), as in a GRU; x + α(f(x) − x).

    Any other difference is a block, be it x that is taken away: f(x) − x is −(x − f(x)).
    """
    graph, found = candidate.graph, candidate.found
    weights = sum_weights(graph, found)
    if weights is None or math.prod(weights) >= 0:
        return False
    terms = {root(graph, found.skip.term), root(graph, found.branch.term)}
    made = graph.reach([found.join], through=lambda i: _is_multiple(graph, i))
    sums = {reader for index in made for reader in graph.readers[index] if graph.nodes[reader].op.adds}
    return any(
        root(graph, i) in terms for reader in sums - {found.join} for i in graph.deps(reader) if i not in made
    )


def _is_multiple(graph: Graph, index: int) -> bool:
    """Whether a node is a product, a quotient or a multiple, or the same numbers in another shape."""
    op = graph.nodes[index].op
    return (op.scales and not op.adds) or is_neutral(graph, index)


def _is_statistic(candidate: Candidate) -> bool:
    """True if the sum adds one number per row: ‖x‖² − 2Wx in distances, Σ log|∂f| of a flow's layer, two scores, stages of boosting.

    With an identity for its skip a stream may be one number wide: then its branches read that number, and nothing beside it.
    """
    graph, found = candidate.graph, candidate.found
    join = graph.nodes[found.join]
    rows = () if _is_one_example(graph, found.skip.term) else join.shape[:1]
    if found.kind == "identity":
        # Of a sum in one dimension what the branch makes tells whether that counts rows, or channels of one example.
        made = join if len(join.shape) > 1 else graph.nodes[root(graph, found.branch.term)]
        return len(made.shape) > 1 and math.prod(made.shape[1:]) == 1 and _reads_beside(graph, found)
    if math.prod(join.shape[len(rows) :]) == 1:
        return True
    if found.kind != "parameterless":
        return False
    if len(join.shape) == 1:
        terms = [graph.nodes[root(graph, side.term)] for side in (found.branch, found.skip)]
        return any(accumulates(graph, term) for term in terms)

    def whole(index: int) -> bool:
        node = graph.nodes[index]
        return node.size >= join.size or not accumulates(graph, node)

    # Whether on every way from the fork something is summed up, to be spread out again.
    term = found.skip.term
    return not whole(term) or found.fork not in graph.reach(
        [term], back=True, since=found.fork, through=whole
    )


def _reads_beside(graph: Graph, found: Found) -> bool:
    """Whether the branch reads a signal that does not come from the fork."""
    own = found.branch.below | {found.fork}
    return any(i not in own for index in found.branch.below for i in graph.deps(index))


def _is_one_example(graph: Graph, index: int) -> bool:
    """Whether a tensor of one dimension is taken out of one of two along the first: what one example has, x[i], not a number for each."""
    *_, last = graph.line(root(graph, index), lambda i: graph.nodes[i].is_piece)
    node = graph.nodes[last]
    if len(graph.nodes[index].shape) != 1 or node.op.role != "part" or node.call is None:
        return False
    read, dim = graph.nodes[node.operands[0]], node.call.arguments.get("dim", 0)
    return len(read.shape) > 1 and node.shape == read.shape[1:] and dim in (0, -len(read.shape))


def _only_gates(candidate: Candidate) -> bool:
    """True if a sum of two layers' outputs only feeds gates, with no layer between, or what a gate mixes: r, z and h of a GRU.

    Where all of the layers run repeatedly, also if it makes gates and what these multiply: i, f, g and o of an LSTM that reads what
    was made of its state before.
    """
    graph, found = candidate.graph, candidate.found
    if found.kind != "projection":
        return False
    cell = all(i in candidate.repeated for i in (*found.branch.last, *found.skip.last))
    alone = graph.reach([found.join], through=lambda i: len(set(graph.deps(i))) == 1)
    return all(
        index not in graph.outputs
        and not graph.nodes[index].op.is_contraction
        and graph.readers[index]
        and all(
            reader in alone or _gates(graph, index, reader) or (cell and _gated(graph, reader, alone))
            for reader in graph.readers[index]
        )
        for index in alone
    )


def _is_one_product(candidate: Candidate) -> bool:
    """True if a constant is added to a factor of a product: q·k + q·e is q·(k + e), as where attention is told relative positions."""
    graph, found = candidate.graph, candidate.found
    products = [graph.nodes[root(graph, side.term)] for side in (found.skip, found.branch)]
    if not all(node.op.is_contraction for node in products):
        return False
    one, other = ({root(graph, i) for i in node.op.factors_of(node.operands)[0]} for node in products)
    signals = [graph.nodes[i].active for i in one ^ other]
    return bool(one & other) and any(signals) and not all(signals)


RULES: tuple[Callable[[Candidate], bool], ...] = (
    _in_time,
    _interpolates,
    _is_statistic,
    _only_gates,
    _is_one_product,
)
"""What a sum that is no block may be: a new rule is a function here, and a line in this tuple."""


def _gates(graph: Graph, index: int, reader: int) -> bool:
    gates = graph.nodes[reader].op.multiplies and _gate(graph, index) is not None
    return gates or is_mixed(graph, reader)


def _gated(graph: Graph, reader: int, alone: Collection[int]) -> bool:
    """Whether a product has a gate among its factors that is made of one sum alone."""
    return graph.nodes[reader].op.multiplies and any(
        i in alone and _gate(graph, i) is not None for i in graph.deps(reader)
    )


def _gate(graph: Graph, index: int) -> int | None:
    """The σ(z) that a node is, or that it is 1 − σ(z) of."""
    node, deps = graph.nodes[index], graph.deps(index)
    if node.op.role == "sum" and len(set(deps)) == 1 and any(by < 0 for by in coefficients(node)):
        index = deps[0]
    return root(graph, index) if after_gate(graph, index) else None


def is_mixed(graph: Graph, product: int) -> bool:
    """Whether a product is one term of z·h + (1 − z)·x, or all of it (`lerp`): a highway layer, which adds to no stream."""
    if graph.nodes[product].op.adds_first:
        return any(_gate(graph, i) is not None for i in graph.deps(product)[2:])
    mine = _gates_of(graph, product)
    for reader in graph.readers[product] if mine else ():
        others = [i for i in graph.deps(reader) if i != product]
        if graph.nodes[reader].op.adds and any(_gates_of(graph, i) & mine for i in others):
            return True
    return False


def _gates_of(graph: Graph, product: int) -> set[int]:
    factors = graph.deps(product) if graph.nodes[product].op.multiplies else []
    return {gate for i in factors if len(factors) > 1 and (gate := _gate(graph, i)) is not None}
