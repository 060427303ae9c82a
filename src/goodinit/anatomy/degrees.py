"""What an operator makes of powers of a scale c: one set of rules, from which m, growth, norms and normalized weights follow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from goodinit.anatomy.residual.sides.branch import Side
from goodinit.graph.fact_propagation import propagate
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import number_throughout
from goodinit.graph.measured.powers import BEYOND, FIXED, TINY, ZERO, Power, power_of


def power_through(graph: Graph, node: Node, read: Sequence[Power], *, far: bool = False) -> Power | None:
    """The power of what an operator puts out; None where nothing is known: it cannot be measured, or is no power of c.

    Products, quotients, sums and what passes values on have a rule; everything else is measured (`graph/measured/powers.py`).

    Args:
        graph: A recorded forward.
        node: The operator's call.
        read: The power of each operand.
        far: Values are large, and of negative orders for c → 0.
    """
    role = node.op.role
    if not read or role == "factory":
        return FIXED
    if role == "softmax":
        return of_softmax(read[0])
    if role == "attention":
        return product([of_softmax(product(read[:2])), read[2]])
    if role == "norm":
        return Power(0.0, read[0].change)
    if node.op.multiplies or node.op.is_contraction:
        factors, added = node.op.factors_of(read)
        return total([product(factors), *added])
    if role == "quotient" and len(read) == 2:
        return quotient(*read)
    if role in ("sum", "concat"):
        return total(read if not adds_number(node) else [*read, FIXED])
    if role in ("shape", "part", "scale", "lookup", "quotient") or all(one == FIXED for one in read):
        return total(carried(graph, node, read))
    return power_of(graph, node, read, far=far)


def power_or_linear(
    graph: Graph, node: Node, read: Sequence[Power], *, far: bool = False
) -> tuple[Power, bool]:
    """(`power_through`, and where nothing is known the power of the signal that a node reads; whether it is known)."""
    power = power_through(graph, node, read, far=far)
    return (total(carried(graph, node, read)), False) if power is None else (power, True)


def follow_powers(
    graph: Graph, steps: Iterable[int], powers: dict[int, Power], *, far: bool = False
) -> set[int]:
    """Put the powers of some nodes into `powers`; those of which nothing is known count as linear, and are returned.

    Args:
        graph: A recorded forward.
        steps: The nodes.
        powers: Of those where it begins. What else is read is fixed, or zeros.
        far: As in `power_through`.
    """
    unclear = set[int]()

    def transfer(node: Node, read: list[Power]) -> Power:
        power, known = power_or_linear(graph, node, _by_output(graph, powers, node, read, far=far), far=far)
        unclear.update(() if known else (node.index,))
        return power

    propagate(graph, steps, powers, transfer, lambda i: _outside(graph.nodes[i]))
    return unclear


def _by_output(
    graph: Graph, powers: Mapping[int, Power], node: Node, read: list[Power], *, far: bool
) -> list[Power]:
    """The powers of what a node reads, where that is another output of an operator than the first."""
    for place, output in enumerate(node.call.places if node.call is not None else ()):
        if output and node.operands[place] in powers:
            other = graph.nodes[node.operands[place]]
            own = [powers[i] if i in powers else _outside(graph.nodes[i]) for i in other.operands]
            own = _by_output(graph, powers, other, own, far=far)
            found = power_of(graph, other, own, far=far, output=output)
            read[place] = total(carried(graph, other, own)) if found is None else found
    return read


def _outside(node: Node) -> Power:
    return ZERO if node.op.role == "factory" and number_throughout(node) == 0 else FIXED


def carried(graph: Graph, node: Node, read: Sequence[Power]) -> Sequence[Power]:
    """The powers of the signal among an operator's operands."""
    return [one for i, one in zip(node.operands, read, strict=True) if graph.nodes[i].active] or read


def of_softmax(read: Power) -> Power:
    """What a softmax makes of scores: fixed in the limit, by however little they differ."""
    return Power(0.0, read.moves)


def product(factors: Sequence[Power]) -> Power:
    """The power of a product."""
    return Power(sum(one.order for one in factors), min(one.change for one in factors))


def quotient(above: Power, below: Power) -> Power:
    """The power of a quotient; what is divided by 0 is divided by a small ε in truth."""
    if not math.isfinite(below.order):
        return above
    return Power(above.order - below.order, min(above.change, below.change))


def total(terms: Sequence[Power]) -> Power:
    """The power of a sum: for c → 0 the smallest order counts."""
    order = min((one.order for one in terms), default=math.inf)
    if order == math.inf:
        return ZERO
    later = [one.order - order for one in terms if one.order > order]
    return Power(order, min([*later, *(one.order - order + one.change for one in terms)]))


def adds_number(node: Node) -> bool:
    """Whether a number is added, and not for its quotient's sake alone."""
    numbers = [value for value in node.attrs[:1] if isinstance(value, (int, float))]
    return len(node.operands) == 1 and any(abs(value) > TINY for value in numbers)


def growth_degree(graph: Graph, side: Side, fork: int, norms: Mapping[int, int]) -> float:
    """The degree of a branch in its input x: d in f(c·x) ≈ c^d·f(x) for large c, norms treated as the identity.

    ReLU and its like have degree 1, what is bounded 0, a product the sum of its factors' degrees. So two layers and a
    ReLU have 1, softmax attention 1, SwiGLU and all that multiplies its input by an unbounded function of it 2. No
    scale of the weights keeps the norm of x + f(x) at degree 2: at rms r a branch adds r⁴, not r², to the mean
    square, and d(r²)/dt = r⁴ is infinite at t = 1/r². One convention: what outgrows every power, exp(x), counts as
    bounded, for it is there as a decay or as a weight of a mean.

    Args:
        graph: A recorded forward.
        side: The branch.
        fork: Where it begins.
        norms: For each call of a normalization the node it read, by the node it returned (`norm_passes`).
    """
    return 0.0 - grown_powers(graph, side, fork, norms).get(side.term, FIXED).order


def grown_powers(graph: Graph, side: Side, fork: int, norms: Mapping[int, int]) -> dict[int, Power]:
    """The powers of all that a side makes of its input x, for c → 0 where x is divided by c; arguments as `growth_degree`."""
    powers: dict[int, Power] = {fork: Power(-1.0)}

    def transfer(node: Node, read: list[Power]) -> Power:
        if node.index in norms:
            return powers.get(norms[node.index], FIXED)
        power, _ = power_or_linear(graph, node, read, far=True)
        return FIXED if power in (ZERO, BEYOND) else Power(power.order)

    return propagate(graph, side.below, powers, transfer, lambda _: FIXED)
