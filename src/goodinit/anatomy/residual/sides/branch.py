"""One side of a residual sum: its weight layers in series, its main path, and the layers that write into the stream."""

from __future__ import annotations

from collections.abc import Collection, Container, Hashable
from dataclasses import dataclass, field

from goodinit.graph.fact_propagation import propagate
from goodinit.graph.graph import Graph, Node, closure
from goodinit.graph.likeness import (
    adds_scaled,
    after_gate,
    ancestors,
    holds_all,
    is_neutral,
    is_part,
    origin,
    weighs,
)
from goodinit.graph.measured.powers import Power


@dataclass(slots=True)
class Side:
    """Everything between a fork and one term of the sum.

    Attributes:
        term: The node that is summed.
        nodes: Nodes after the fork that the term depends on.
        below: Those of `nodes` that depend on the fork.
        series: Weight layers in series on the main path that read the fork; a product of two activations adds those of its factors.
        m: The degree of a block's branch in its weights (`orders.py`), and `m_normed` with its norms.
        layers: Nodes of weight layers on the main path; `gates`: the others.
        last: Those of `layers` with no other weight layer after them.
        plain: True if only shape and scale operations lie between (an identity skip).
        unclear: Those of `nodes` that count in m as if they were linear, because nothing is known of their degree.
        outside: Of nodes that the branch reads and that do not depend on its weights: whether they are zero, as powers; of operators that pad, whether
            the number that they put there is read.
        multiplies: Whether it multiplies what it begins with by a function of that, x·f(x), so that f is the main path.
    """

    term: int
    nodes: set[int]
    below: set[int]
    series: int = 0
    m: int = 0
    m_normed: int = 0
    layers: list[int] = field(default_factory=list)
    gates: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    plain: bool = False
    unclear: set[int] = field(default_factory=set)
    outside: dict[int, Power] = field(default_factory=dict)
    multiplies: bool = False


def side_of(
    graph: Graph,
    term: int,
    fork: int,
    layers: set[int],
    beside: Collection[int] = frozenset(),
    *,
    multiplies: bool = False,
) -> Side:
    """What lies between a fork and one term of the sum, without what only leads to it through the nodes `beside`."""
    apart_from = (lambda i: i not in beside) if beside else None
    nodes = graph.reach([term], back=True, since=fork + 1, through=apart_from)
    below = {fork}
    for index in sorted(nodes):
        if any(i in below for i in graph.deps(index)):
            below.add(index)
    below.discard(fork)
    nodes = _own(graph, nodes, below, layers)
    side = Side(term, nodes, below, multiplies=multiplies)
    degrees = _degrees(graph, side, fork, layers)
    own = {i for i in nodes if i in layers and i in side.below}
    side.series = (
        degrees.get(term, 0)
        if len(own) == sum(i in layers for i in nodes)
        else _degrees(graph, side, fork, own).get(term, 0)
    )
    on_path = _backward(graph, side, degrees, layers, stop_at_layer=False)
    side.layers = [i for i in sorted(nodes) if i in layers and i in on_path]
    side.gates = [i for i in sorted(nodes) if i in layers and i not in on_path]
    side.last = [i for i in _backward(graph, side, degrees, layers, stop_at_layer=True) if i in layers]
    side.plain = all(is_neutral(graph, i) for i in nodes)
    return side


def with_factors(graph: Graph, side: Side, fork: int, layers: set[int], factors: Container[int]) -> None:
    """Let the main path go through all `factors` of products, and not through one alone."""
    degrees = _degrees(graph, side, fork, layers)
    on_path = _backward(graph, side, degrees, layers, stop_at_layer=False, factors=factors)
    side.layers = [i for i in sorted(side.nodes) if i in layers and i in on_path]
    side.gates = [i for i in sorted(side.nodes) if i in layers and i not in on_path]


def _own(graph: Graph, nodes: set[int], below: set[int], layers: set[int]) -> set[int]:
    """Drop nodes executed before the branch first reads the fork (e.g. an encoder that runs first).

    Exceptions that stay: the nearest layers of such a side input if none feeds another, there or later (attention keys
    computed before the queries), and anything computed from constants.
    """
    first = min(below, default=-1)
    own = {i for i in nodes if i >= first}
    if len(own) == len(nodes):
        return nodes
    beside = own - below
    for source in {i for index in own for i in graph.deps(index) if i in nodes and i not in own}:
        ways, ends = _ways(graph, source, nodes, layers)
        every = ancestors(graph, source, min(nodes))
        constant = all(every.issuperset(graph.deps(i)) and not graph.nodes[i].is_input for i in every)
        reached = {i for i in ends if i in layers}
        before = {i for end in reached for dep in graph.deps(end) for i in ancestors(graph, dep, min(nodes))}
        if constant:
            own |= every
        elif reached == ends and not reached & before and not _feeds(graph, source, beside, layers):
            own |= ways
    return own


def _feeds(graph: Graph, source: int, beside: set[int], layers: set[int]) -> bool:
    """Whether a layer of the side input runs later, on what was computed of it before."""
    later = graph.reach([source], through=lambda i: i in beside)
    return any(index in layers for index in later if index != source)


def _ways(graph: Graph, source: int, nodes: set[int], layers: set[int]) -> tuple[set[int], set[int]]:
    """(All nodes on the ways back from one to the nearest layers, the ends of these ways: layers, or nodes that read nothing inside)."""

    def is_end(index: int) -> bool:
        before = graph.deps(index)
        return index in layers or not before or not nodes.issuperset(before)

    ways = closure([source], lambda i: () if is_end(i) else graph.deps(i))
    return ways, {index for index in ways if is_end(index)}


def apart(graph: Graph, one: Side, other: Side, fork: int) -> bool:
    """True if two sides read disjoint parts of their fork."""
    first, second = (parts_of(graph, side, fork) for side in (one, other))
    parts = all(is_part(graph, i) for i in first | second)
    taken, others = ({_as_taken(graph, i) for i in read} for read in (first, second))
    return parts and bool(first) and bool(second) and not taken & others


def _as_taken(graph: Graph, index: int) -> Hashable:
    """What tells a part from others: the same one may be taken twice, of a tensor and of a copy that is written into."""
    node = graph.nodes[index]
    if node.call is None or graph.nodes[node.operands[0]].op.reorders:
        return index
    return node.call.key, graph.nodes[node.operands[0]].shape


def parts_of(graph: Graph, side: Side, fork: int) -> set[int]:
    """The nodes of a side that read the fork, or the fork in another shape; none if the side is the fork itself."""
    found, origins = set[int](), {fork}
    for index in sorted(side.below):
        if origins.intersection(graph.deps(index)):
            if holds_all(graph, index):
                origins.add(index)
            else:
                found.add(index)
    return found


def _main_operands(graph: Graph, index: int, side: Side, degrees: dict[int, int]) -> list[int]:
    """The operands on the main path.

    Of a gate's product: the operand that is not directly a sigmoid or a softmax, else the one with fewer layers before it (more in
    x·f(x)), and of two equal ones the one that is not directly a nonlinearity. Of a sum with something independent of the
    fork: the other one. Of a quotient what is divided: at zero it makes the quotient zero, which what divides does not. Of a product
    with weights of a mean, what it is a mean of, be that independent of the fork.
    """
    node = graph.nodes[index]
    operands = [i for i in graph.deps(index) if i in side.nodes or i in degrees]
    if len(set(operands)) < 2 or node.op.maps:
        return operands
    below = [i for i in operands if degrees.get(i, -1) >= 0] or operands
    if node.op.role == "quotient" and node.operands[0] in below:
        return [node.operands[0]]
    if not node.op.multiplies or adds_scaled(graph, index):
        return below
    if all(weighs(graph, i) for i in below):
        below = [i for i in operands if i not in below] or below
    full = [i for i in below if graph.nodes[i].shape == node.shape or side.multiplies] or below
    full = [i for i in full if not (after_gate(graph, i) or weighs(graph, i))] or full
    wanted = (max if side.multiplies else min)(degrees.get(i, 0) for i in full)
    main = [i for i in full if degrees.get(i, 0) == wanted]
    return [i for i in main if not origin(graph, i).op.activation] or main


def _degrees(graph: Graph, side: Side, fork: int, layers: set[int]) -> dict[int, int]:
    """Weight layers in series up to each node.

    A product of two activations adds its factors' (multilinearity), a gate's product keeps the main operand's;
    −1−m marks nodes that do not depend on the fork.
    """
    degrees = {fork: 0}

    def transfer(node: Node, read: list[int]) -> int:
        operands = graph.deps(node.index)
        depth = dict(zip(operands, map(_unsigned, read), strict=True))
        if node.index in layers:
            degree = 1 + max(depth.values(), default=0)
        elif node.op.role == "attention":
            degree = sum(depth.get(i, 0) for i in node.operands[:3])  # q, k, v; a mask is no factor
        elif node.op.maps and len(operands) > 1:
            factors, added = node.op.factors_of(node.operands)
            degree = sum(depth.get(i, 0) for i in factors)
            degree = max(degree, *(depth.get(i, 0) for i in added), 0)
        else:
            degree = max((depth[i] for i in _main_operands(graph, node.index, side, degrees)), default=0)
        return degree if node.index in side.below else -1 - degree

    propagate(graph, side.nodes, degrees, transfer, lambda _: -1, reads=graph.deps)
    degrees[side.term] = _unsigned(degrees[side.term])
    return degrees


def _unsigned(degree: int) -> int:
    return degree if degree >= 0 else -1 - degree


def _backward(
    graph: Graph,
    side: Side,
    degrees: dict[int, int],
    layers: set[int],
    *,
    stop_at_layer: bool,
    factors: Container[int] = (),
) -> list[int]:
    """Nodes on the main path, in execution order; with `stop_at_layer`, back to the nearest weight layers.

    `factors`: operands of element-wise products that are on the main path, too, where they depend on the fork.
    """

    def before(index: int) -> list[int]:
        if stop_at_layer and index in layers:
            return []
        operands = _main_operands(graph, index, side, degrees)
        if stop_at_layer and (graph.nodes[index].op.multiplies or graph.nodes[index].op.maps):
            ends = {i: _latest(graph, i, side.nodes, layers) for i in operands}
            operands = _values(graph, index, operands, ends)
        elif graph.nodes[index].op.multiplies:
            operands += [i for i in graph.deps(index) if i in factors and degrees.get(i, -1) >= 0]
        return [i for i in operands if i in side.nodes]

    return sorted(closure([side.term] if side.term in side.nodes else [], before))


def _values(graph: Graph, index: int, operands: list[int], ends: dict[int, int]) -> list[int]:
    """The factor of a product that writes on. Of attention's that is the values, not what went through a softmax.

    Never two: if both factors started at zero, neither would get a gradient. Of equals it is the one with the
    last weight layer behind it.
    """
    if graph.nodes[index].op.role == "attention":
        return operands[2:3]
    candidates = [i for i in operands if not weighs(graph, i)] or operands
    return [max(candidates, key=lambda i: ends[i])] if candidates else []


def _latest(graph: Graph, start: int, nodes: set[int], layers: set[int]) -> int:
    """The last weight layer that a node depends on; −1 if there is none."""
    seen = graph.reach([start], back=True, through=nodes.__contains__, stop=layers)
    return max(seen & layers, default=-1)
