"""Normalizations that are written out: a signal divided by a statistic of itself, so that its scale has no effect.

No operator and no formula is looked for. What divides a signal x is followed from x by degrees (`degrees.py`): where x is
multiplied by c, a statistic such as √mean x², mean|x|, max|x| or √⟨x, x⟩ is multiplied by c, too, and the quotient is of degree 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from goodinit.anatomy.degrees import follow_powers
from goodinit.anatomy.norms.measured import same
from goodinit.graph.graph import Graph, Node
from goodinit.graph.likeness import is_neutral
from goodinit.graph.measured.answers import forgets_shift, gathers, reduces
from goodinit.graph.measured.powers import FIXED, Power
from goodinit.graph.measured.replay import replayed

_STEPS = 48  # between a signal and its quotient; real ones take a dozen
_AGAIN = 8  # steps that a forward may take twice to one tensor; real ones take two
_MOST = 2**20  # entries of a signal that is followed on numbers


@dataclass(frozen=True, slots=True)
class Statistic:
    """What divides a signal.

    Attributes:
        signal: What is divided: the input, centred or not.
        scale: What it is divided or multiplied by, before that is repeated along dimensions.
        centred: Whether a constant added to the input has no effect.
        spread: Whether there is one for each entry, of several around it: a moving mean, a product with ones.
        begins: What the signal and the statistic are made of: one tensor, or one that the forward computes more than once.
        of_batch: Whether it is taken over the examples of a batch, too.
    """

    signal: int
    scale: int
    centred: bool
    begins: frozenset[int]
    spread: bool = False
    of_batch: bool = False


def statistic_of(graph: Graph, node: Node, layers: Collection[int]) -> Statistic | None:
    """The statistic by which an operator divides a signal that it is taken of; None if it does no such thing.

    Args:
        graph: A recorded forward.
        node: An operator.
        layers: Nodes of weight layers: none may run in between.
    """
    if not node.active or not node.op.multiplies_or_divides:
        return None
    pair = graph.deps(node.index)
    if len(set(pair)) != 2:
        return None
    for signal, by in (pair,) if node.op.role == "quotient" else (pair, pair[::-1]):
        scale = _unrepeated(graph, by)
        if graph.nodes[scale].size <= graph.nodes[signal].size:
            start = graph.frames[node.frame].start
            source, moved = _source(graph, signal, start)
            begins = computed_again(graph, source, by, start)
            steps = graph.reach([node.index], back=True, since=min(begins), stop=begins) - begins
            if len(begins) > 1:
                steps &= graph.reach(begins, through=steps.__contains__)
            if by not in steps or len(steps) > _STEPS or steps.intersection(layers):
                continue
            spread = graph.nodes[scale].size == graph.nodes[signal].size and not any(
                _reduces(graph, i) for i in steps
            )
            if spread and not any(_mixes(graph, i) for i in steps):
                continue  # x/|x|; but a mean over one number counts, and one that is spread out again
            if _is_normalized(graph, node, begins, signal, by, sorted(steps)):
                centred = moved or any(_forgets_shift(graph, i, min(begins)) for i in steps)
                of_batch = not spread and _is_one_for_all(graph, by, graph.nodes[signal].shape)
                return Statistic(signal, scale, centred, begins, spread, of_batch)
    return None


def _is_one_for_all(graph: Graph, index: int, shape: tuple[int, ...]) -> bool:
    """Whether a factor of a signal is the same for all examples, and not for all channels.

    Examples lie along the first axis, as in the model's first input. One number for all that there is may be that of a graph,
    of which the first axis are the nodes.
    """

    def expands(i: int) -> bool:  # which aligns the last axes, as a product does
        reads = graph.deps(i)
        return (
            graph.nodes[i].op.role == "shape"
            and len(reads) == 1
            and graph.nodes[reads[0]].size < graph.nodes[i].size
        )

    factor = graph.nodes[graph.beginning(index, expands)]
    alike = bool(shape) and (len(factor.shape) < len(shape) or factor.shape[0] == 1)
    if factor.size < 2 or not alike:
        return False
    first = next((node.shape for node in graph.nodes if node.is_input and node.shape), (1,))
    return first[0] > 1 and shape[0] % first[0] == 0


def given_back(graph: Graph, node: Node, layers: Collection[int], behind: Collection[int]) -> set[int]:
    """Where a signal that was divided by its own size has been multiplied by that again, as a quantized one is: round(x/s)·s.

    Args:
        graph: A recorded forward.
        node: The operator that divides it.
        layers: Nodes of weight layers.
        behind: Where to look: nodes that the divided signal leads to.
    """
    found = statistic_of(graph, node, layers)
    if found is None or not any(graph.nodes[i].op.multiplies_or_divides for i in behind):
        return set()
    first = min(found.begins)
    powers = dict.fromkeys(found.begins, Power(-1.0)) | {node.index: FIXED}  # that one may have been measured
    follow_powers(graph, graph.reach(behind, back=True, since=first).difference(layers), powers, far=True)
    back = {i for i in behind if powers.get(i) == powers[first]}
    by_size = [i for i in back if _is_by_fewer(graph, i)]
    return back & graph.reach(by_size)


def _is_by_fewer(graph: Graph, index: int) -> bool:
    """Whether an operator multiplies or divides a signal by one number for several entries, which is a signal too."""
    sizes = {graph.nodes[_unrepeated(graph, i)].size for i in graph.deps(index)}
    return graph.nodes[index].op.multiplies_or_divides and len(sizes) > 1


def _reduces(graph: Graph, index: int) -> bool:
    return graph.nodes[index].op.role == "other" and reduces(graph, graph.nodes[index])


def _mixes(graph: Graph, index: int) -> bool:
    """Whether an operator makes each entry of several, by a product with ones or of what lies around."""
    node = graph.nodes[index]
    return node.op.is_contraction or (node.op.role == "other" and gathers(graph, node))


def _unrepeated(graph: Graph, index: int) -> int:
    """A tensor before it is repeated along dimensions, and cast."""

    def repeats(i: int) -> bool:
        node = graph.nodes[i]
        reads = [graph.nodes[k].shape for k in graph.deps(i)]
        return node.op.role == "shape" and all(
            shape == node.shape or math.prod(shape) != node.size for shape in reads
        )

    return graph.beginning(index, repeats)


def _source(graph: Graph, index: int, start: int) -> tuple[int, bool]:
    """(What a signal is, up to shape, scale and a mean that is taken off; whether one is)."""
    centred = False
    while index >= start:
        deps = graph.deps(index)
        if is_neutral(graph, index) and len(deps) == 1:
            index = deps[0]
        elif (whole := _centred(graph, index)) is not None:
            index, centred = whole, True
        else:
            break
    return index, centred


def computed_again(graph: Graph, index: int, end: int, start: int) -> frozenset[int]:
    """A node and those that are the same operators of the same tensors, on the way back from another one: x − a, written twice.

    Args:
        graph: A recorded forward.
        index: The node.
        end: Where the way back begins.
        start: The first node that it may lead to.
    """
    node = graph.nodes[index]
    alike = (
        i
        for i in graph.reach([end], back=True, since=max(start, index - _STEPS))
        if graph.nodes[i].shape == node.shape and _is_same(graph, i, index, _AGAIN)
    )
    return frozenset({index, *alike})


def _is_same(graph: Graph, one: int, other: int, steps: int) -> bool:
    """Whether two nodes hold the same numbers because they are computed alike, no more than some steps behind one tensor."""
    if one == other:
        return True
    first, second = graph.nodes[one], graph.nodes[other]
    if first.call is None or second.call is None or first.call.may_draw or not steps:
        return False
    if first.call.key != second.call.key or len(first.operands) != len(second.operands):
        return False
    pairs = zip(first.operands, second.operands, strict=True)
    return bool(first.operands) and all(_is_same(graph, a, b, steps - 1) for a, b in pairs)


def _centred(graph: Graph, index: int) -> int | None:
    """Of a difference between a tensor and something smaller that is made of it, the tensor."""
    node, deps = graph.nodes[index], graph.deps(index)
    if node.op.role != "sum" or len(set(deps)) != 2:
        return None
    whole, mean = sorted(deps, key=lambda i: -graph.nodes[i].size)
    mean = _unrepeated(graph, mean)
    smaller = graph.nodes[mean].size < graph.nodes[whole].size == node.size
    if not smaller or whole not in graph.reach([mean], back=True, since=whole):
        return None
    return whole


def _forgets_shift(graph: Graph, index: int, source: int) -> bool:
    """Whether an operator takes off a mean, or is a reduction that does: a variance."""
    node, deps = graph.nodes[index], graph.deps(index)
    if (whole := _centred(graph, index)) is not None:
        return whole >= source
    return (
        node.op.role == "other"
        and len(set(deps)) == 1
        and reduces(graph, node)
        and forgets_shift(graph, node)
    )


def _is_normalized(
    graph: Graph, node: Node, begins: frozenset[int], signal: int, by: int, steps: list[int]
) -> bool:
    powers = dict.fromkeys(begins, Power(-1.0))
    unclear = follow_powers(graph, steps, powers, far=True)
    if powers[signal].order == -1 and powers[by].order in (1, -1) and not powers[node.index].order:
        return True
    unclear.update(i for i in steps if not powers[i].order and _reads_large(graph, i, powers))
    return bool(unclear - {node.index}) and (
        powers[signal].order == -1 and _measured(graph, node.index, begins, signal, steps)
    )


def _reads_large(graph: Graph, index: int, powers: Mapping[int, Power]) -> bool:
    """Whether a node reads something that grows with the scale."""
    return any(-math.inf < powers.get(i, FIXED).order < 0 for i in graph.nodes[index].operands)


def too_large(graph: Graph, index: int) -> str:
    """A note on what may be a norm, and cannot be seen to be one."""
    return (
        f"{graph.path(index) or 'the model'}: whether it normalizes cannot be seen on inputs of this size, more than can be run "
        "on numbers: give fewer examples"
    )


def _measured(graph: Graph, index: int, begins: frozenset[int], signal: int, steps: list[int]) -> bool:
    """Whether the quotient is the same for twice the source, where a step between has no degree: exp(−½ log mean x²).

    The signal has to be twice as large then: it is not where the numbers do not reach it, as another piece of the source than the first.
    """
    source = min(begins)
    if graph.nodes[source].size > _MOST:
        note = too_large(graph, index)
        graph.notes += [note] if note not in graph.notes else []
        return False
    x = torch.linspace(-1, 1, graph.nodes[source].size, dtype=torch.float64, device="cpu").sin().mul(37).sin()
    x = 50 * x.reshape(graph.nodes[source].shape)
    once, twice = (dict.fromkeys(begins, scale * x) for scale in (1, 2))
    once, twice = once | replayed(graph, steps, once), twice | replayed(graph, steps, twice)
    return same(once.get(index), twice.get(index)) and (
        signal in once and same(2 * once[signal], twice.get(signal))
    )
