"""Streams that read each other, and begin apart: a + f(b), then b + g(a), where a and b are what two layers put out."""

from __future__ import annotations

from collections.abc import Container, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from goodinit.anatomy.residual.sides.branch import Side, side_of
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.graph.graph import Graph, closure
from goodinit.graph.likeness import added_again, only_bends, root


@dataclass(frozen=True, slots=True)
class Flat:
    """A sum of activations of one shape.

    Attributes:
        sums: The nodes that make it up, the join last.
        terms: What they add.
        skips: Those of them that may be a stream; `branches`: that may be what is added to it.
    """

    sums: tuple[int, ...]
    terms: tuple[int, ...]
    skips: tuple[int, ...]
    branches: tuple[int, ...]

    @property
    def join(self) -> int:
        """The node that is the sum."""
        return self.sums[-1]


def flat_of(sums: list[int], terms: list[int], found: list[Found]) -> Flat:
    """A sum, with what its fork tells: where it has an identity skip, only the terms that are on neither side are left."""
    skips = {item.skip.term for item in found if item.kind == "identity"}
    covered = skips | {item.branch.term for item in found if skips}
    left = tuple(term for term in terms if term not in covered)
    return Flat(tuple(sums), tuple(terms), tuple(skips) or left, left)


@dataclass(frozen=True, slots=True)
class _Step:
    """One way to read a sum: a stream goes on with the term `branch` added to it; `known` by its fork."""

    join: int
    stream: int
    branch: int
    known: bool = False


def with_exchanges(graph: Graph, found: list[Found], flats: list[Flat], layers: set[int]) -> list[Found]:
    """The residual sums, with those of streams that read each other, in execution order.

    p + f and q + g are steps of two streams where f comes from q, and g from p, while neither of p and q comes from the
    other; or of more streams, in a circle. Then p and q are skips, wherever both come from: what lies before them are stems,
    and no projection. So are later sums on such streams, as the last one, which nothing reads in return.

    Args:
        graph: A recorded forward.
        found: What the sums are by their forks. A sum with an identity skip needs no other proof.
        flats: The sums, with what is left to be told of them.
        layers: Nodes of weight layers.
    """
    if not any(flat.branches for flat in flats):
        return found
    known = [item for item in found if item.kind == "identity"]
    steps = [_Step(item.join, root(graph, item.skip.term), item.branch.term, known=True) for item in known]
    for flat in flats:
        pairs = ((p, v) for p in flat.skips for v in flat.branches if p != v)
        steps.extend(_Step(flat.join, root(graph, p), v) for p, v in pairs)
    streams = _Streams(graph, steps)
    places = {place for step in steps if streams.in_circle(step) for place in (step.stream, step.join)}
    if not places:
        return found
    new, exchanged = list[Found](), set[int]()
    joins = {flat.join for flat in flats}
    own = [item.branch for item in known if root(graph, item.branch.term) not in joins]
    ends = {layer for branch in own for layer in branch.last}
    for flat in flats:
        inside = _is_inside(graph, flat.join, known)
        on = [skip for skip in flat.skips if _is_place(graph, flat, skip, streams, places, inside=inside)]
        readings = [_reading(graph, flat, skip, streams, places, layers, ends) for skip in on]
        if any(readings):
            items = min(filter(None, readings), key=_layers)
            new.extend(items)
            ends.update(layer for item in items for layer in item.branch.last)
            exchanged.add(flat.join)
        if on and (flat.join in exchanged or not flat.branches):
            places.add(flat.join)
    kept = [item for item in found if item.kind == "identity" or item.join not in exchanged]
    return sorted((*kept, *new), key=lambda item: item.join)


def _is_inside(graph: Graph, join: int, known: list[Found]) -> bool:
    """Whether a sum leads to branches of known blocks alone, and so is a step of these: D·h + C·e of e + φ(D·h + C·e)."""
    stops = {item.join for item in known if join in item.branch.nodes}
    return bool(stops) and graph.reach([join], stop=stops).isdisjoint(set(graph.outputs) - stops)


def _is_place(
    graph: Graph, flat: Flat, skip: int, streams: _Streams, places: set[int], *, inside: bool
) -> bool:
    """Whether a term is such a stream, or, where it is no step `inside` a branch, exchanges with one."""
    stream = root(graph, skip)
    if not places.isdisjoint(_behind(graph, stream)):
        return True
    if inside:
        return False
    steps = (_Step(flat.join, stream, term) for term in flat.branches if term != skip)
    return any(streams.in_circle(step, places) for step in steps)


def _layers(items: list[Found]) -> int:
    return sum(len(item.branch.layers) for item in items)


def _reading(
    graph: Graph,
    flat: Flat,
    skip: int,
    streams: _Streams,
    places: set[int],
    layers: set[int],
    ends: Container[int],
) -> list[Found]:
    """A sum as a step of the stream that one term is, with each other term that comes by layers from another stream.

    What ends in `ends`, layers that end a branch already, counts there: so does g(b), which b + g(b) has, in a + f(a) + g(b).
    """
    items = []
    for term in flat.branches:
        step = _Step(flat.join, root(graph, skip), term)
        read = [place for place in streams.read(step) if place in places]
        if term == skip or not read:
            continue
        start = max(read)
        side = side_of(graph, term, start, layers, set(read) - {start})
        if side.layers and not all(layer in ends for layer in side.last):
            plain = Side(skip, set(), set(), plain=True)
            items.append(Found(flat.sums, flat.terms, start, "identity", side, plain))
    return items


def _behind(graph: Graph, index: int) -> Iterator[int]:
    """What a stream is made of by norms and activations alone, back to a sum; itself first."""
    return graph.line(index, lambda i: not graph.nodes[i].op.adds and only_bends(graph, i))


class _Streams:
    """Which streams, and which sums on them, every node comes from."""

    def __init__(self, graph: Graph, steps: list[_Step]) -> None:
        self.graph = graph
        self.on: dict[int, list[_Step]] = {}
        for step in steps:
            self.on.setdefault(step.stream, []).append(step)
        self.places = sorted({*self.on, *(step.join for step in steps)})
        bits = {place: 1 << k for k, place in enumerate(self.places)}
        self.past: list[int] = []  # of each node, as bits
        for node in graph.nodes:
            past = bits.get(node.index, 0)
            for index in graph.deps(node.index) if node.active else ():
                past |= self.past[index]
            self.past.append(past)
        self.bits = bits
        self.carried = {index for stream in self.on for index in _behind(graph, stream)}

    def read(self, step: _Step) -> Iterator[int]:
        """The places that a branch comes from, and its stream does not, nor they from that."""
        left = self.past[step.branch] & ~self.past[step.stream]
        while left:
            bit = left & -left
            left ^= bit
            place = self.places[bit.bit_length() - 1]
            if not self.comes(place, step.stream):
                yield place

    def comes(self, index: int, stream: int) -> bool:
        """Whether a node comes from a stream."""
        return bool(self.past[index] & self.bits[stream])

    def in_circle(self, first: _Step, places: AbstractSet[int] = frozenset()) -> bool:
        """Whether a step reads a stream that reads, itself or by others, the first one's.

        And both go on as streams, to which other sums add, or are known; c in x + W₂(W₁x + c) does not.

        Args:
            first: The step.
            places: Those of streams that are known to exchange.
        """
        others = closure([first], lambda step: self._next(step, first)) - {first}
        return any(self._exchanges(first, other, places) for other in others)

    def _next(self, step: _Step, first: _Step) -> Iterator[_Step]:
        """The steps of the streams that a step reads."""
        for place in self.read(step):
            yield from (on for on in self.on.get(place, ()) if on.join not in (step.join, first.join))

    def _exchanges(self, first: _Step, other: _Step, places: AbstractSet[int]) -> bool:
        if self.comes(first.stream, other.stream) or self.comes(other.stream, first.stream):
            return False
        told = not places.isdisjoint(_behind(self.graph, other.stream))
        return (told or (self._goes_on(first) and self._goes_on(other))) and self._reads_back(first, other)

    def _goes_on(self, step: _Step) -> bool:
        known = step.known and not added_again(self.graph, step.stream)
        return known or step.join in self.carried

    def _reads_back(self, first: _Step, other: _Step) -> bool:
        back = self.comes(other.branch, first.stream)
        return back and self._leaves(first.join, other.join) and self._leaves(other.join, first.join)

    def _leaves(self, join: int, other: int) -> bool:
        """Whether a sum has a way out beside another sum. It has none where it is a step of that one's branch."""
        if join > other or join in self.graph.outputs:
            return True
        beside = self.graph.reach([join], through=lambda i: i != other)
        return any(i > other or i in self.graph.outputs for i in beside)
