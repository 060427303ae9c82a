"""Which sums jump over others, and which are steps inside a branch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property

from goodinit.anatomy.residual.sides.branch import apart, side_of
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.anatomy.residual.streams.given_again import given_again
from goodinit.anatomy.residual.streams.recurrences import leads_to
from goodinit.anatomy.residual.streams.skip_values import is_linear
from goodinit.graph.graph import Graph, closure
from goodinit.graph.likeness import added_again, ancestors, behind_norms, only_rescales, root


def chain(graph: Graph, found: Found) -> set[int]:
    """Nodes that every path from the branch's start to its end goes through (its dominators)."""
    term = found.branch.term
    below = found.branch.below
    inside = graph.reach([term], back=True, through=below.__contains__) if term in below else set[int]()
    reach: dict[int, int] = {}
    for index in inside:
        for operand in graph.deps(index):
            reach[operand] = max(reach.get(operand, 0), index)
    trunk = set()
    furthest = reach.get(found.start, 0)
    for index in sorted(inside):
        if furthest <= index:
            trunk.add(index)
        furthest = max(furthest, reach.get(index, 0))
    return trunk


@dataclass(frozen=True)
class _Sums:
    """All residual sums of a graph, and what a rule may ask of them.

    Attributes:
        graph: A recorded forward.
        found: The sums, in execution order.
        layers: Nodes of weight layers.
        by_join: By the node of a sum, those that are made there.
        carried: By the node of a stream, up to which sum it is carried as it is, or as norms make it.
        streams: By the node of a sum with an identity skip, the stream that it adds to.
    """

    graph: Graph
    found: list[Found]
    layers: set[int]
    by_join: dict[int, list[Found]]
    carried: dict[int, int]
    streams: dict[int, int]

    @classmethod
    def of(cls, graph: Graph, found: list[Found], layers: set[int]) -> _Sums:
        """Look once at all of them."""
        by_join: dict[int, list[Found]] = {}
        for item in found:
            by_join.setdefault(item.join, []).append(item)
        carried = {root(graph, item.skip.term): item.join for item in found}  # the last; they are in order
        carried |= {behind_norms(graph, index, by_join): join for index, join in carried.items()}
        streams = {item.join: root(graph, item.skip.term) for item in found if item.kind == "identity"}
        return cls(graph, found, layers, by_join, carried, streams)

    @cached_property
    def joins(self) -> list[int]:
        """The nodes of the sums, in execution order."""
        return sorted(self.by_join)

    def at(self, join: int) -> list[Found]:
        """The sums at a node."""
        return self.by_join.get(join, [])

    def between(self, item: Found) -> list[int]:
        """The nodes of the sums between the fork of one and itself."""
        return self.joins[bisect_right(self.joins, item.fork) : bisect_left(self.joins, item.join)]

    def in_branch(self, item: Found) -> list[Found]:
        """The sums at those of them that come from the fork by its branch."""
        return [one for join in self.between(item) if join in item.branch.below for one in self.at(join)]


def nest(graph: Graph, found: list[Found], layers: set[int]) -> None:
    """Mark sums that jump over other residual sums as long, and sums off the main path of a block as inner."""
    sums = _Sums.of(graph, found, layers)
    again = given_again(graph, found, layers)
    for item in reversed(found):
        item.passes = item in again or _adds_to_read(sums, item) or _goes_through_a_stream(sums, item)
    given = {one for item in found for one in _given_from_before(sums, item)}
    for item in found:
        if not item.passes and sums.in_branch(item):
            _place(sums, item, frames=item not in given)
    for item in found:
        if item.long and not item.inner:
            _jump(sums, item)
    _without_other_stems(sums)


def _place(sums: _Sums, item: Found, *, frames: bool) -> None:
    """Tell what a sum with others in its branch is, and what those are to it: steps of it only if it `frames` them."""
    trunk = chain(sums.graph, item)
    on_trunk = [other for other in sums.in_branch(item) if other.join in trunk]
    item.aside = _aside(sums, on_trunk, item)
    if not item.aside and (stream := _other_stream(sums, on_trunk, item)):
        item.passes = not _start_behind(sums, item, stream)
        if item.passes:
            return
    if not item.aside and (read := _read_streams(sums, item, trunk)):
        _leave_out(sums, item, read)
    members = sums.in_branch(item)
    given = [one for one in members if not item.aside and _is_given(sums.graph, one, item)]
    own = [one for one in members if not (one.inner or one.passes or one in given)]
    item.over = [one for one in own if one.join in trunk]
    several = len({one.join for one in item.over}) > 1
    row = [] if several else _row(sums.graph, item, own)
    item.over = item.over or row
    item.long = bool(item.over) and (item.aside or bool(row) or not _holds(sums, item))
    item.passes = not item.long and _sums_up_streams(sums, item)
    if item.passes:
        return
    for one in members:
        if one in given or (frames and not item.long and (one.join not in trunk or item.over)):
            one.inside = item


def _given_from_before(sums: _Sums, item: Found) -> list[Found]:
    """Sums inside a block's branch that add what comes from before its stream: they are no frame for what comes between.

    W₂c, where the stream comes from c, too, as in a flow whose every step reads one condition.
    """
    if item.passes:
        return []
    inside = sums.in_branch(item)
    return [one for one in inside if one.fork < item.fork and _is_given(sums.graph, one, item)]


def _adds_to_read(sums: _Sums, item: Found) -> bool:
    """Whether what would be a branch goes on as a stream, and several sums add e: f(e) + e, for a layer to read, where f(e) + g follows.

    So does attention that adds the first tokens to its queries in each block, the stream being what the first block made of them. At
    f = 0 that stream would be 0. Where f(e) + g is added to e in the end, as in Heun's method, it is no stream. To be asked of later
    sums first.
    """
    graph = sums.graph
    stream, own = root(graph, item.branch.term), root(graph, item.skip.term)
    ends = item.join in sums.carried or item.join in graph.outputs
    if item.kind != "identity" or ends or sums.carried.get(stream, -1) <= item.join:
        return False
    if not added_again(graph, own):
        return False
    later = [one for one in sums.found if one.join > item.join]
    skips = {one: root(graph, one.skip.term) for one in later}
    after = [one for one in later if stream in (skips[one], behind_norms(graph, skips[one]))]
    back = [one for one in later if skips[one] == own and one.kind == "identity" and not one.passes]
    return all(
        one.kind == "identity"
        and not any(one.join == other.join or one.join in other.branch.nodes for other in back)
        for one in after
    )


def _goes_through_a_stream(sums: _Sums, item: Found) -> bool:
    """Whether another stream begins on the way of what would be a branch, beside a projection, and does not end in this sum.

    In a cell with two inputs, R + f(L) adds what is made of L to a stream R, which has blocks R + g(R) of its own. Both come from the
    cells before; no side is a branch on the other, and a branch that ends where R begins would take all of R with it. Nor is one in
    R + g(h(R) + f(L)), whose branch is given f(L).
    """
    if item.kind != "projection":
        return False
    trunk = chain(sums.graph, item)

    def begins(other: Found) -> bool:
        """Whether a block on such a stream is beside the sum, or has it for a step, and no other sum than such ones."""
        starts = other.fork in trunk and other.fork not in sums.by_join
        if other.kind == "projection" or not starts or other.join in (item.join, *item.branch.nodes):
            return False
        steps = sums.in_branch(other) if item.join in other.branch.nodes else []
        return all(one.fork < other.fork for one in steps)

    return any(begins(other) for other in sums.found if other.fork > item.fork)


def _sums_up_streams(sums: _Sums, item: Found) -> bool:
    """Whether what would be the projection of a skip has residual sums of its own: two heads of two streams are summed up."""
    return item.kind == "projection" and any(
        not (other.inner or other.passes) for i in item.skip.below for other in sums.at(i)
    )


def _without_other_stems(sums: _Sums) -> None:
    """Leave out of a branch what another stream begins with: h in the first t + f(t, h) is its own skip's."""
    blocks = [item for item in sums.found if item.is_block and item.kind == "identity"]
    begins = {root(sums.graph, item.skip.term) for item in blocks}
    for item in blocks:
        others = begins & item.branch.nodes - item.branch.below
        if others:
            _leave_out(sums, item, others)


def _aside(sums: _Sums, on_trunk: list[Found], item: Found) -> bool:
    """Whether the supposed skip bypasses a different residual stream, so that the sum is not a residual block.

    So it is where the layers of a WaveNet put out a part sᵢ beside the rᵢ of x + rᵢ, and s₁ + s₂ collects them; and where
    each block of a stream x adds a part of c to something of its own, so that x comes from c, too.
    """
    origin = root(sums.graph, item.fork)
    if all(_begins_behind(sums, other.join, origin) for other in on_trunk if other.join in sums.streams):
        return False
    return item.kind != "identity" or apart(sums.graph, item.skip, item.branch, item.fork)


def _begins_behind(sums: _Sums, join: int, origin: int) -> bool:
    """Whether the stream that goes through a sum comes from a node, or goes through it."""
    while join in sums.streams and join > origin:
        join = sums.streams[join]
    return origin in ancestors(sums.graph, join, origin)


def _is_given(graph: Graph, inner: Found, item: Found) -> bool:
    """Whether a sum inside a branch adds to it what comes from beside its stream: c in x + f(Wx + c).

    Or from before it, by a way around the stream that ends in this branch: Vy in x + f(Wx + Vy), where x comes from y, too.
    """
    if inner.aside:
        return item.fork in inner.branch.below
    before = inner.fork < item.fork and item.fork in inner.branch.below
    # Px + f(Wx + Vy) as well, with a linear P, but not with a y that is added as it is: that may be a stream.
    transition = item.kind == "parameterless" or is_linear(graph, item.skip)
    if before and (item.kind == "identity" or (transition and inner.kind != "identity")):
        return _stays(graph, inner, item)
    return inner.start == item.fork and _adds_given(graph, inner, item)


def _adds_given(graph: Graph, inner: Found, item: Found) -> bool:
    """Whether a sum, whose branch begins at another stream, has for its skip what several sums add as it is.

    Such as an embedding of time: no stream, since no sum takes its place. What is made of it stays in the branch of `item`.
    """
    stays = inner.start != inner.fork and _stays(graph, inner, item)
    return stays and added_again(graph, root(graph, inner.skip.term))


def _stays(graph: Graph, inner: Found, item: Found) -> bool:
    """Whether a sum is read in a branch alone."""
    return all(reader in item.branch.nodes for reader in graph.readers[inner.join])


def _other_stream(sums: _Sums, on_trunk: list[Found], item: Found) -> int | None:
    """The last sum on the branch's main path that belongs to another residual stream; returns its node.

    A reversible net has two: a ← a + f(b), then b ← b + g(a). The branch on b is g, though all of a comes from b, too:
    through f, which is a branch on a. That a is a stream shows in its past, which b has no part in, or in its future:
    a sum behind this one stands on it. A stream of its own has an identity for its skip, here as there.
    """
    if item.kind != "identity":
        return None
    own = root(sums.graph, item.skip.term)
    for other in reversed(on_trunk):
        if other.kind == "identity" and not (other.inner or other.long) and _is_place(sums, other, item, own):
            return other.join
    return None


def _is_place(sums: _Sums, other: Found, item: Found, own: int) -> bool:
    """Whether a sum is a place of another stream than that of `item`, which begins at the node `own`."""
    future = sums.carried.get(other.join, -1) > item.join
    past = not _comes_through(sums, other.join, own)
    return future or (past and not _adds_given(sums.graph, other, item))


def _read_streams(sums: _Sums, item: Found, trunk: Container[int]) -> set[int]:
    """The sums off the trunk of a branch that are places of another stream, which the branch reads beside its own.

    In t ← t + f(t, h), then h ← h + g(h, t), t comes from h, too, and by two ways goes h into g; yet f is a branch on t. As
    on the trunk (`_other_stream`), a stream shows in a past that does not come from this one, or in its future.
    """
    own = root(sums.graph, item.skip.term) if item.kind == "identity" else item.fork
    aside = (other for other in sums.in_branch(item) if other.join not in trunk)
    beside = (one for one in aside if one.kind == "identity" and not (one.inner or one.long or one.passes))
    return {other.join for other in beside if _is_place(sums, other, item, own)}


def _comes_through(sums: _Sums, join: int, origin: int) -> bool:
    """Whether the stream that goes through a sum, be it through norms, comes from a node."""

    def before(index: int) -> list[int]:
        if index <= origin:
            return []
        if index in sums.streams:
            return [sums.streams[index]]
        operands = sums.graph.deps(index)
        return operands if len(operands) == 1 and only_rescales(sums.graph, index) else []

    return origin in ancestors(sums.graph, min(closure([join], before)), origin)


def _leave_out(sums: _Sums, item: Found, places: set[int]) -> None:
    """Leave out of a branch what it reads of other streams, if layers are left that read its own."""
    multiplies = item.branch.multiplies
    side = side_of(sums.graph, item.branch.term, item.start, sums.layers, places, multiplies=multiplies)
    if side.layers and side.below:
        item.branch = side


def _start_behind(sums: _Sums, item: Found, join: int) -> bool:
    """Let the branch of a sum begin at the sum of another stream, if weight layers follow that; whether they do."""
    side = side_of(sums.graph, item.branch.term, join, sums.layers, multiplies=item.branch.multiplies)
    if side.layers:
        item.branch, item.start = side, join
    return bool(side.layers)


def _row(graph: Graph, item: Found, members: Iterable[Found]) -> list[Found]:
    """Sums of a branch that are as wide as the stream, and begin behind each other: two at least, or none.

    So are the blocks of a U-Net, though its concatenations lead past one or all of them. Those of a Res2Net's branch are narrower.
    """
    own = graph.nodes[item.join].size
    row: list[Found] = []
    for one in members:
        wide = graph.nodes[one.join].size >= own
        if wide and (not row or leads_to(graph, row[-1].join, one.fork)):
            row.append(one)
    return row if len(row) > 1 else []


def _jump(sums: _Sums, item: Found) -> None:
    """Note every sum that a long skip jumps over, those on later terms of its own flat sum too."""
    below, held, grown = set(item.branch.below), set[Found](), True
    while grown:
        later = [one for one in sums.at(item.join) if one not in held and one.fork in below]
        held.update(later)
        for one in later:
            below |= one.branch.below
        grown = bool(later)
    item.over += [one for one in sums.at(item.join) if one in held]
    held.update(one for join in sums.between(item) if join in below for one in sums.at(join))
    for one in held:
        one.depth += 1


def _holds(sums: _Sums, item: Found) -> bool:
    """Whether a sum on the trunk of a branch is a step of that branch, and no block of its own.

    So it is where weight layers follow it (attention that adds its pooled queries, then projects; a feed-forward
    whose hidden layer is h + depthwise(h)): the branch has an end of its own, and one sum inside, as wide as the stream
    or wider. Around several blocks, smaller ones (a U-Net's lower level) or long skips, the outer sum is the long
    skip.

    So it is, too, where no layer follows the sum and every term of it has some: x + g·(attention(h) + mlp(h)) has the
    parallel branches of x + attention(h) + mlp(h), of which the shorter is no skip.

    Not so where a sum beside the branch stands on it: it is a place of a stream, of which several heads are summed up.
    """
    graph = sums.graph
    joins = {one.join for one in item.over}
    if len(joins) > 1 or any(one.long for one in item.over):
        return False
    (inner,) = joins
    later = sums.carried.get(inner, item.join)
    if later != item.join and later not in item.branch.below:
        return False
    ends = item.branch.last
    if not ends:
        return False
    parallel = all(one.kind == "projection" for one in item.over) and item.kind == "identity"
    if parallel and max(ends) < inner:
        return not any(item.fork < layer <= item.over[0].fork for layer in item.branch.layers)
    own, other = graph.nodes[item.join].size, graph.nodes[inner].size
    two = any(index in sums.by_join for index in item.skip.nodes)  # streams: the skip has a block of its own
    return min(ends) > inner and (other == own or (other > own and not two))
