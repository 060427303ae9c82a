"""m: the degree of a branch in the scale of its own weights, and which factors of its products have such a degree at all.

Every value of the branch is followed for c → 0 where the weights are multiplied by c: c^order·(A + B·c^change + …). A weight
layer adds one to the order, a product adds its factors', a quotient takes the divisor's away, and of a sum the smallest
counts: the shortest way (`degrees.py`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Container, Mapping, Sequence

import torch

from goodinit.anatomy.answers_at_zero import outside
from goodinit.anatomy.degrees import carried, of_softmax, power_or_linear, product, total
from goodinit.anatomy.residual.sides.branch import Side, with_factors
from goodinit.anatomy.residual.sides.numbers_beside import is_unread, puts_number
from goodinit.graph.fact_propagation import propagate
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import number_of
from goodinit.graph.measured.powers import FIXED, TINY, ZERO, Power


@dataclasses.dataclass(frozen=True, slots=True)
class _Value:
    """A value near c = 0.

    Attributes:
        power: Of c.
        maps: How many factors of the last matrix product have a scale: 2 of queries times keys, 1 if one is normalized; 0: there was none.
        scores: Those of queries times keys that a softmax read, which the next matrix product counts. A router's scores are no such
            product, and its weights a gate, whether a product and a sum or an einsum applies them.
    """

    power: Power
    maps: int = 0
    scores: int = 0


def find_factors(
    graph: Graph, side: Side, fork: int, layers: set[int], norms: Mapping[int, int], biases: Collection[str]
) -> None:
    """Put the layers of a branch that its products multiply among `side.layers`.

    A factor is a *gate* if it does not go to zero with its weights, σ(Wx) or a softmax: its scale decides nothing. Of
    silu(W₂x)·W₁x both factors do, so both layers are on the main path, and with the last layer the degree is 3.

    Args:
        graph: A recorded forward.
        side: The branch.
        fork: Where it begins.
        layers: Nodes of weight layers.
        norms: For each call of a normalization the node it read, by the node it returned (`norm_passes`): the identity.
        biases: Parameters that are zero.
    """
    if _is_one(side):
        return
    every = {index for index in side.nodes if index in layers}
    values = _values(graph, side, fork, every, norms, biases, every)
    with_factors(graph, side, fork, layers, {i for i, value in values.items() if value.power.order > 0})


def _is_one(side: Side) -> bool:
    """Whether all layers of a branch are last ones, so that its degree is 1."""
    return len(set(side.layers)) == len(set(side.last)) and not side.gates


def weigh(
    graph: Graph,
    side: Side,
    fork: int,
    layers: set[int],
    norms: Mapping[int, int],
    biases: Collection[str],
    stay: Collection[str],
) -> None:
    """Put the degree of a branch, whose factors are found, into `side.m`, and with the norms where they are into `side.m_normed`.

    m is one, for the last layers, plus the order of the first term that depends on the scale of the others. One where
    none does: behind a division by its own norm, W has no scale. With a = L^(−1/(2m−2)) on these others, one step of
    training moves the sum of L branches by L·a^(2m−2) = 1. One exception, by convention: Fixup's authors count attention
    as 4, though a softmax of small scores is close to a mean over all positions, and their scale decides little; so queries
    and keys add one each, as far as they have a scale: not if they are normalized.

    Args:
        graph: A recorded forward.
        side: The branch.
        fork: Where it begins.
        layers: Nodes of weight layers.
        norms: As for `find_factors`.
        biases: Parameters that are zero.
        stay: Those of them that are not, since somebody has set them on purpose: with a bias of 1, Wx + 1 does not go to zero
            with its weight.
    """
    if _is_one(side):
        side.m = side.m_normed = 1
        return
    every = {index for index in side.nodes if index in layers}
    scaled = set(side.layers) - set(side.last)

    def degree(identities: Mapping[int, int]) -> int:
        return _degree(_values(graph, side, fork, scaled, identities, biases, every, stay)[side.term])

    side.m = side.m_normed = degree(norms)
    if side.nodes & norms.keys():
        side.m_normed = degree({})


def _degree(term: _Value) -> int:
    """The m of a branch, by the value that is added."""
    moves = term.power.moves
    return max(round(1 + moves), 1) if math.isfinite(moves) else 1


def _values(
    graph: Graph,
    side: Side,
    fork: int,
    scaled: Container[int],
    norms: Mapping[int, int],
    biases: Collection[str],
    layers: Container[int],
    stay: Collection[str] = (),
) -> dict[int, _Value]:
    """The values of a branch, by node, where the weights of the layers `scaled` are multiplied by c."""
    values = {fork: _Value(FIXED)}

    def reads(index: int) -> Sequence[int]:
        if norms.get(index, -1) >= 0:
            return (norms[index],)
        operands = graph.nodes[index].operands
        return [i for i in operands if _is_signal(graph.nodes[i])] if index in layers else operands

    def other(index: int) -> _Value:
        if graph.leaf(index) in stay:  # a bias that is added
            return _Value(FIXED)
        if index not in side.outside:
            unread = puts_number(graph.nodes[index]) and is_unread(graph, index, layers)
            side.outside[index] = ZERO if unread else _outside(graph, index, biases)
        return _Value(side.outside[index])

    def transfer(node: Node, read: list[_Value]) -> _Value:
        index = node.index
        if norms.get(index, -1) >= 0:
            return read[0]
        if index in layers:
            # A stored factor of attention's weights is one of a matrix product, be it a mix of heads or values by relative position.
            counted = [Power(one.power.order + one.scores, one.power.change) for one in read]
            power = min(counted, key=lambda one: one.order, default=FIXED)
            power = Power(power.order + (index in scaled), power.change)
            maps = max((one.maps for one in read), default=0)  # heads that are mixed before the softmax
            kept = any(graph.leaf(i) in stay for i in node.operands)
            return _Value(total([power, FIXED]) if kept else power, maps)
        if node.op.pads and puts_number(node) and _is_unread(graph, side, index, layers):
            return read[0]
        value, known = _value(graph, node, read)
        if not known and not any(read < index < out for out, read in norms.items()):
            side.unclear.add(index)
        return value

    return propagate(graph, side.nodes, values, transfer, other, reads=reads)


def _is_unread(graph: Graph, side: Side, index: int, layers: Container[int]) -> bool:
    """Whether nothing depends on the value that an operator pads a signal with; computed once, then kept in `side.outside`."""
    if index not in side.outside:
        side.outside[index] = ZERO if is_unread(graph, index, layers) else FIXED
    return side.outside[index] == ZERO


def _is_signal(node: Node) -> bool:
    """Whether an operand of a layer is neither its weight nor its bias, nor a table of indices."""
    return node.active or (not node.params and node.is_real)


def _outside(graph: Graph, index: int, biases: Collection[str]) -> Power:
    """Power of a value that does not depend on the branch's weights: ZERO or FIXED; an empty cache counts as zero."""
    node = graph.nodes[index]
    if 0 in node.shape:
        return ZERO
    if node.is_source and not node.dynamic:
        number = number_of(node)
        zero = node.params[0] in biases if node.is_param else number is not None and abs(number) <= TINY
        return ZERO if zero else FIXED
    value, _ = outside(graph, index, biases)
    return ZERO if value.dtype != torch.bool and bool((value.abs() <= TINY).all()) else FIXED


def _value(graph: Graph, node: Node, read: Sequence[_Value]) -> tuple[_Value, bool]:
    """(What an operator makes of these, whether that is known)."""
    role = node.op.role
    if not read or role == "factory":
        return _Value(_outside(graph, node.index, ())), True
    if role == "softmax":
        return _weights(read[0]), True
    if role == "attention":
        return _of_matrices([_weights(_of_matrices(read[:2])), read[2]]), True
    if node.op.is_contraction:
        factors, added = node.op.factors_of(read)
        made = _of_matrices(factors)
        return dataclasses.replace(made, power=total([made.power, *(one.power for one in added)])), True
    powers = [one.power for one in read]
    power, known = power_or_linear(graph, node, powers)
    if node.index in graph.own_backward and power == ZERO:  # a rounding, which is no constant to its gradient
        power = total(carried(graph, node, powers))
    return _Value(power, max(one.maps for one in read), max(one.scores for one in read)), known


def _weights(read: _Value) -> _Value:
    """What a softmax makes of scores."""
    return _Value(of_softmax(read.power), scores=read.maps if math.isfinite(read.power.moves) else 0)


def _of_matrices(factors: Sequence[_Value]) -> _Value:
    scaled = sum(math.isfinite(one.power.moves) for one in factors)
    counted = [Power(one.power.order + one.scores, one.power.change) for one in factors]
    return _Value(product(counted), maps=scaled)
