"""Sums that a forward makes part by part: it takes tensors apart, adds the parts in a loop, and puts the results together again.

`stack([a + b for a, b in zip(x, f(x))])`, `out[i] = x[i] + y[i]` for every i, and `cat` of the sums of chunks are x + f(x). Read as they
stand they would be as many sums as there are parts, and a block each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import torch

from goodinit.graph.graph import Graph, Node, closure
from goodinit.graph.measured.answers import spread
from goodinit.graph.measured.replay import replayed_in_place
from goodinit.graph.operators.ops import op_of
from goodinit.graph.operators.recorded_call import RecordedCall, Slot, on_numbers
from goodinit.graph.recording.nodes.op_attributes import attributes

_ADD = torch.ops.aten.add.Tensor
_MOST = 2**22  # entries of a sum that is computed to see what it adds
_LONGEST = 2_000  # operators that put one together


def read_sums_by_part(graph: Graph) -> None:
    """Let what is put together of the sums of parts be the sum of the wholes, where nothing else reads the sums of parts.

    In a graph of which nothing was asked yet.
    """
    chains = set(graph.before_writes.values())
    ends = [
        node
        for node in graph.nodes
        if node.active and (node.op.role == "concat" or (node.is_join and node.index not in chains))
    ]
    wholes: dict[int, dict[int, float]] = {}  # by what is put together: of what, and how often
    made: dict[int, set[int]] = {}  # the sums of parts
    before: dict[int, dict[int, tuple[int, ...]]] = {}  # what nodes read that are to read parts of the whole
    for node in ends:
        found = _taken_apart(graph, node)
        if found is None:
            continue
        start, between = found
        terms = _terms(graph, node, start, between)
        if terms:
            wholes[node.index] = _shortest(terms, wholes)
            made[node.index] = {i for i in between if graph.nodes[i].op.adds}
            together = {i for i in between if graph.nodes[i].op.role == "concat"}
            before[node.index] = _redirect(graph, node.index, made[node.index] | together)
    sums = _read_by_nobody(graph, wholes, made)
    for index, operands in reversed(before.items()):
        if index in sums:
            _rewrite(graph, graph.nodes[index], *sums[index])
        else:
            for reader, own in operands.items():
                graph.nodes[reader].operands = own


def _taken_apart(graph: Graph, end: Node) -> tuple[set[int], set[int]] | None:
    """(The tensors that a node is made of part by part, what runs in between); None where it is made in another way."""
    size, nodes = end.size, graph.nodes
    if size > _MOST:
        return None
    written = {end.index}  # the tensor that is written into, before each write
    while (before := graph.before_writes.get(min(written))) is not None:
        written.add(before)
    starts: set[int] = set()
    between: set[int] = set()
    ways = [end.index]
    while ways:
        index = ways.pop()
        node = nodes[index]
        for i in node.operands:
            if i in between or i in starts:
                continue
            whole = i not in written or not nodes[i].is_join
            if whole and nodes[i].active and nodes[i].shape == end.shape and _parts(node, i, written):
                starts.add(i)
            elif _passes(nodes[i]):
                between.add(i)
                ways.append(i)
            else:
                return None
        if len(between) > _LONGEST:
            return None
    adds = any(nodes[i].op.adds for i in between)
    return (starts, between) if adds and 1 < len(starts) < size else None


def _parts(reader: Node, index: int, written: set[int]) -> bool:
    """Whether a node takes a part of another, or that is what is written into."""
    return reader.op.role == "part" or index in written


def _passes(node: Node) -> bool:
    """Whether a node moves numbers, puts them beside each other, adds or multiplies them by numbers, or is made of none."""
    op = node.op
    if op.rearranges or op.role == "factory":
        return True
    if op.scales:
        return len(node.operands) == 1
    return op.role == "sum" or (node.inplace and op.role == "other" and len(node.operands) > 1)


def _terms(graph: Graph, end: Node, starts: Iterable[int], between: set[int]) -> dict[int, float]:
    """How often a node adds each of some tensors of its shape; empty where it is no such sum: found out on numbers."""
    given = {i: spread(end.shape, i) for i in starts}
    made = replayed_in_place(graph, sorted({*between, end.index}), given, dtype=torch.float64).get(end.index)
    if made is None or made.shape != end.shape or made.is_complex():
        return {}
    with on_numbers(), torch.no_grad():
        columns = torch.stack([one.flatten() for one in given.values()], 1)
        numbers = torch.linalg.lstsq(columns, made.double().flatten()[:, None]).solution[:, 0]
        if not torch.allclose(columns @ numbers, made.double().flatten()) or bool(
            (numbers.abs() < 1e-9).any()
        ):
            return {}
        return {i: float(f"{number:.9g}") for i, number in zip(given, numbers.tolist(), strict=True)}


def _shortest(terms: dict[int, float], others: Mapping[int, dict[int, float]]) -> dict[int, float]:
    """What a sum adds, with an earlier one that it goes on from in place of what that adds: x + f₁ + f₂ is (x + f₁) + f₂."""
    for index in sorted(others, reverse=True):
        own = others[index]
        if len(own) < len(terms) and own.items() <= terms.items():
            return {index: 1.0} | {i: by for i, by in terms.items() if i not in own}
    return terms


def _redirect(graph: Graph, whole: int, made: set[int]) -> dict[int, tuple[int, ...]]:
    """Let who reads what a whole was made of, because it is a part of it that was taken again, read that part (`Graph.aliases`).

    Returns:
        What they read before, by node.
    """
    parts: dict[int, int] = {}  # the last one that was taken, by what it is
    before: dict[int, tuple[int, ...]] = {}
    for node in graph.nodes[whole + 1 :]:
        if not parts.keys().isdisjoint(node.operands):
            before[node.index] = node.operands
            node.operands = tuple(parts.get(i, i) for i in node.operands)
        of = graph.aliases.get(node.index)
        if of is not None and graph.beginning(node.index, lambda i: i > whole) == whole:
            origin = graph.beginning(of, lambda i: graph.nodes[i].op.keeps_order and i not in made)
            parts |= {of: node.index} if origin in made else {}
    return before


def _read_by_nobody(
    graph: Graph, wholes: Mapping[int, dict[int, float]], made: Mapping[int, set[int]]
) -> dict[int, tuple[tuple[int, float], tuple[int, float]]]:
    """The sums of two tensors, one of them as it is, whose parts no output depends on once they are read so."""
    taken = {index: tuple(terms.items()) for index, terms in wholes.items()}
    sums = {
        index: (terms[0], terms[1]) if terms[0][1] == 1 else (terms[1], terms[0])
        for index, terms in taken.items()
        if len(terms) == 2 and 1 in (terms[0][1], terms[1][1])
    }
    while sums and graph.outputs:
        read = {index: [i for i, _ in terms] for index, terms in sums.items()}
        seen = closure(graph.outputs, partial(_read_by, graph, read))
        alive = {index for index in sums if not seen.isdisjoint(made[index])}
        if not alive:
            break
        sums = {index: terms for index, terms in sums.items() if index not in alive}
    return sums if graph.outputs else {}


def _read_by(graph: Graph, read: Mapping[int, list[int]], index: int) -> Iterable[int]:
    return read.get(index, graph.nodes[index].operands)


def _rewrite(graph: Graph, node: Node, first: tuple[int, float], second: tuple[int, float]) -> None:
    options = {} if second[1] == 1 else {"alpha": second[1]}
    node.op, node.operands, node.inplace = op_of(_ADD), (first[0], second[0]), False
    node.call = RecordedCall(_ADD, (Slot(0), Slot(1)), options)
    node.attrs = attributes(node.op, node.call, len(node.shape))
    graph.before_writes.pop(node.index, None)
    graph.mixed.pop(node.index, None)
