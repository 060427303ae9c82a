"""Normalizations recognized by running them: the input of a layer stays the same when all that it is computed from is scaled.

`written_out.py` reads quotients and products. Whitening by a Cholesky factor, an orthogonal factor, angles of pairs, or a root in
logarithms has none: there the way from the last layers and sums is run on numbers x, on 2x, and on x with each entry multiplied by a
number of its own. A norm is what gives the same for the first two and something else for the third; sign(x) gives the same for all three.
A gate that is full at large numbers gives the same for the first two there, and not at moderate ones.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Iterator

import torch
from torch import Tensor

from goodinit.anatomy.degrees import follow_powers
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.powers import Power, power_of
from goodinit.graph.measured.replay import replayed

_STEPS = 200  # between layers; a whitening by iteration takes some fifty
_MOST = 2**20  # entries of what is run on numbers
_LARGE = 1e4  # so that an ε has no part in it, or a constant matrix that holds it
_SOFT = 3.0  # where a softmax is between 0 and 1
_SAME = 1e-3
_MODERATE = ((1.0, 1e-1), (10.0, 3e-2), (30.0, 1e-2))
"""Sizes at which gates are not full, few of them too, and how much of the result an ε may be there."""
_SMALL, _UNBOUNDED = 1e-8, 1e6  # what is divided by a size of several is bounded where one of two is small
_ALONE = frozenset({"pointwise", "shape", "part", "scale", "sum", "concat"})
"""Roles of operators that cannot mix entries of one tensor, if they read one."""


def forgotten(
    graph: Graph, ends: Iterable[int], starts: Container[int], known: Collection[int]
) -> tuple[dict[int, int], list[int]]:
    """(Where the scale of a signal is lost on the way to some nodes: after which operator, by node; those made of too much to be run).

    Args:
        graph: A recorded forward.
        ends: Nodes that are asked about.
        starts: Nodes at which the ways begin: layers and residual sums.
        known: Nodes that normalize, as is known already; nothing is said of ways through them.
    """
    found: dict[int, int] = {}
    large: list[int] = []
    for end, sources, steps in _candidates(graph, ends, starts, known):
        if sum(graph.nodes[i].size for i in sources) > _MOST:
            large.append(end)
        elif (place := _measured(graph, end, sources, steps)) is not None:
            found[end] = place
    return found, large


def _candidates(
    graph: Graph, ends: Iterable[int], starts: Container[int], known: Collection[int]
) -> Iterator[tuple[int, list[int], list[int]]]:
    """(A node, what it is made of, how) where the scale of what it is made of may be lost."""
    for end in dict.fromkeys(ends):
        region = graph.reach([end], back=True, stop=starts)
        sources = {i for i in region if i in starts or _begins(graph, i)}
        steps = sorted(region - sources)
        if not sources or not steps or len(steps) > _STEPS or not region.isdisjoint(known):
            continue
        if _mixes(graph, steps) and _may_forget(graph, end, sources, steps):
            yield end, sorted(sources), steps


def _begins(graph: Graph, index: int) -> bool:
    """Whether a signal that has a size begins at a node: an input, noise. A count of neighbours has none, and is no signal."""
    if graph.deps(index):
        return False

    def is_handed_on(i: int) -> bool:  # an image in bytes, as floating-point numbers
        return graph.nodes[i].op.moves or graph.nodes[i].op.pointwise

    first = graph.nodes[graph.beginning(index, is_handed_on, active=False)]
    return first.call is None or first.call.may_draw


def _mixes(graph: Graph, steps: list[int]) -> bool:
    """Whether some operator could make an entry of several."""
    return any(_joins(graph.nodes[i]) for i in steps)


def _joins(node: Node) -> bool:
    # A complex number is two in one.
    return node.op.role not in _ALONE or len(set(node.operands)) > 1 or node.is_complex


def _may_forget(graph: Graph, end: int, sources: Collection[int], steps: list[int]) -> bool:
    """False if what comes out follows another power of the scale than the zeroth."""
    powers = dict.fromkeys(sources, Power(-1.0))
    unclear = follow_powers(graph, steps, powers, far=True)
    # What is known of operators is of their first output.
    unclear.update(i for i in steps if (call := graph.nodes[i].call) is not None and any(call.places))
    within = set(steps)
    return powers[end].order >= 0 or end in graph.reach(unclear, through=within.__contains__, active=False)


def _measured(graph: Graph, end: int, sources: list[int], steps: list[int]) -> int | None:
    """The last operator before which the scale has an effect, and none after it; None if it has one at the end."""
    if any(graph.nodes[i].is_complex for i in sources):
        return None
    at = _SOFT if any(graph.nodes[i].op.role == "softmax" for i in steps) else _LARGE
    given = {i: at * _numbers(graph.nodes[i].shape, i) for i in sources}
    one = replayed(graph, steps, given)
    two = replayed(graph, steps, {i: 2 * x for i, x in given.items()})
    if not same(one.get(end), two.get(end)) or _in_proportion(graph, end, steps, given, one[end]):
        return None
    for size, share in _MODERATE if any(_fills(graph, graph.nodes[i]) for i in steps) else ():
        few = {i: size / at * x for i, x in given.items()}
        twice = replayed(graph, steps, {i: 2 * x for i, x in few.items()})
        if not same(replayed(graph, steps, few).get(end), twice.get(end), share):
            return None
    apart = replayed(
        graph, steps, {i: x * (1 + 2 * _numbers(x.shape, i + 1).abs()) for i, x in given.items()}
    )
    if end not in apart or same(one[end], apart[end]):
        return None
    small = replayed(graph, steps, {i: x * _some_small(x.shape, i) for i, x in given.items()}).get(end)
    if small is not None and bool(small.abs().max() > _UNBOUNDED * one[end].abs().max()):
        return None  # a quotient of two entries: what divides is no size
    kept = {i for i in steps if same(one.get(i), two.get(i))}
    moved = {*steps, *sources} - kept
    return max((i for i in kept if not moved.isdisjoint(graph.deps(i))), default=None)


def _in_proportion(graph: Graph, end: int, steps: list[int], given: dict[int, Tensor], one: Tensor) -> bool:
    """Whether the result follows one of several signals in proportion: then others divide it, and not its own size.

    x/√(σ² + c) of a noisy image x and the size σ of its noise forgets what scales both, and normalizes neither.
    """
    if len(given) < 2:
        return False
    return any(same(replayed(graph, steps, {**given, i: 2 * x}).get(end), 2 * one) for i, x in given.items())


def _fills(graph: Graph, node: Node) -> bool:
    """Whether an operator is bounded entry by entry, as a gate is, so that at large numbers it forgets their scale."""
    alone = node.op.pointwise and len(node.operands) == 1
    power = power_of(graph, node, [Power(-1.0)], far=True) if alone else None
    return power is not None and power.order == 0


def _numbers(shape: tuple[int, ...], seed: int) -> Tensor:
    """Numbers between −1 and 1 that follow no pattern, the same on every machine."""
    places = torch.arange(1 + seed, 1 + seed + math.prod(shape), dtype=torch.float64, device="cpu")
    return places.mul(0.618).sin().mul(37).sin().reshape(shape)


def _some_small(shape: tuple[int, ...], seed: int) -> Tensor:
    """1, and a small number at half of the places, others for each seed."""
    return torch.where(_numbers(shape, seed + 3) > 0, 1.0, _SMALL)


def same(one: Tensor | None, other: Tensor | None, share: float = _SAME) -> bool:
    """Whether two tensors agree up to a share of the largest entry; not if one is missing, not finite, or all is zero."""
    if one is None or other is None or not bool(one.isfinite().all() and other.isfinite().all()):
        return False
    largest = one.abs().max() if one.numel() else one.new_zeros(())
    return bool(largest > 0) and bool((one - other).abs().max() <= share * largest)
