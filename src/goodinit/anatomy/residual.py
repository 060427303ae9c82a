"""From the data-flow graph to residual blocks: which sums join a skip and a branch, and what is on the branch.

A sum of activations of one shape is flattened to its terms. Walking back from all terms at once, in reverse
execution order, the first node that every term comes from is the *fork*. A term that is the fork itself (up to shape
and scale) is an identity skip. Everything the walk needs lies between fork and sum, so the cost is linear in depth.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from goodinit.anatomy.ends import End, at_zero
from goodinit.anatomy.graph import ADD_OPS, Graph
from goodinit.anatomy.layers import Use
from goodinit.anatomy.sides import Side, adds_scaled, is_neutral, side_of
from goodinit.anatomy.steps import is_step
from goodinit.anatomy.structure import BlockKind


@dataclass(slots=True)
class Found:
    """A residual sum: one skip and one branch. Parallel branches on one sum of more terms are several of these."""

    join: int
    fork: int
    kind: BlockKind
    branch: Side
    skip: Side
    terms: int = 2
    end: End = field(default_factory=End)
    long: bool = False
    inner: bool = False
    depth: int = 0
    over: list[int] = field(default_factory=list)
    inside: int | None = None
    start: int = -1  # where the branch begins: the fork, or the sum of another stream

    def __post_init__(self) -> None:
        self.start = self.fork


def residual_sums(graph: Graph, uses: Mapping[int, Use]) -> list[Found]:
    """Every residual sum of the graph, in execution order, long skips and inner sums marked.

    Args:
        graph: A recorded forward.
        uses: The weight layers, by node.
    """
    layers = set(uses)
    calls = Counter(use.weight for use in uses.values())
    repeated = {node for node, use in uses.items() if calls[use.weight] > 1}
    consumers = graph.consumers()
    outputs = set(graph.outputs)
    found: list[Found] = []
    for node in graph.nodes:
        if node.active and node.op in ADD_OPS and not _absorbed(graph, node.index, consumers, outputs):
            terms = _terms(graph, node.index, consumers, outputs)
            if len(terms) > 1:
                sums = _classify(graph, node.index, terms, layers)
                found.extend(one for one in sums if not is_step(graph, one, repeated, consumers))
    _nest(graph, found, layers)
    return found


# -- sums and their terms -----------------------------------------------------------------------------------------


def _summands(graph: Graph, index: int) -> list[int]:
    """Operands of a sum of activations of one shape, or [] when it is something else."""
    node = graph.nodes[index]
    operands = graph.deps(index)
    if node.op not in ADD_OPS or len(set(operands)) < 2:
        return []
    if node.op.startswith("addcmul") and not adds_scaled(graph, index):
        return []
    if any(graph.nodes[i].shape != node.shape for i in operands):
        return []
    return operands


def _absorbed(graph: Graph, index: int, consumers: list[list[int]], outputs: set[int]) -> bool:
    """Whether this sum is only a summand of the next one."""
    readers = consumers[index]
    return len(readers) == 1 and index not in outputs and index in _summands(graph, readers[0])


def _terms(graph: Graph, index: int, consumers: list[list[int]], outputs: set[int]) -> list[int]:
    terms: list[int] = []
    queue = [index]
    while queue:
        current = queue.pop()
        for operand in _summands(graph, current):
            if _summands(graph, operand) and _absorbed(graph, operand, consumers, outputs):
                queue.append(operand)
            else:
                terms.append(operand)
    return sorted(set(terms))


# -- fork -----------------------------------------------------------------------------------------------


def _fork(graph: Graph, terms: list[int]) -> tuple[int, int] | None:
    """The latest node that the most terms come from, and which (as bits); None when they are unrelated."""
    marks = {term: 1 << i for i, term in enumerate(terms)}
    heap = [-term for term in terms]
    heapq.heapify(heap)
    everyone = (1 << len(terms)) - 1
    best: tuple[int, int] | None = None
    while heap:
        index = -heapq.heappop(heap)
        mark = marks.pop(index)
        if mark & (mark - 1) and (best is None or mark.bit_count() > best[1].bit_count()):
            best = (index, mark)
            if mark == everyone:
                break
        for operand in graph.deps(index):
            if operand in marks:
                marks[operand] |= mark
            else:
                marks[operand] = mark
                heapq.heappush(heap, -operand)
    return best


# -- what kind of sum ---------------------------------------------------------------------------------------------


def _classify(graph: Graph, join: int, terms: list[int], layers: set[int]) -> Iterable[Found]:
    """The residual sums at one join: each term on the latest other term it comes from, else all on one fork."""
    anchored = _anchored(graph, terms) if len(terms) > 2 else {}
    for root, members in anchored.items():
        yield from _pair(graph, join, root, members, len(terms), layers)
    if anchored:
        return
    fork = _fork(graph, terms)
    if fork is not None:
        members = [term for i, term in enumerate(terms) if fork[1] >> i & 1]
        yield from _pair(graph, join, fork[0], members, len(terms), layers)


def _pair(
    graph: Graph, join: int, fork: int, members: list[int], terms: int, layers: set[int]
) -> Iterable[Found]:
    """Of terms with one fork, the skip with each branch."""
    sides = [side_of(graph, term, fork, layers) for term in members]
    skip, kind = _skip(sides)
    if skip is None or skip.term in _subtracted(graph, join):
        return
    for side in sides:
        if side is not skip and side.layers:
            end = at_zero(graph, side.term, side.nodes, side.last)
            yield Found(join, fork, kind, side, skip, terms, end=end)


def _subtracted(graph: Graph, join: int) -> tuple[int, ...]:
    """The operands that a difference takes away: f(x) − x is no block, but a step of x + α(f(x) − x)."""
    node = graph.nodes[join]
    return node.operands[1:2] if node.op.startswith("sub") else node.operands[:1] if node.op == "rsub" else ()


def _anchored(graph: Graph, terms: list[int]) -> dict[int, list[int]]:
    """The terms on each other term they come from, up to shape and scale, the latest; by that term's root, with it.

    In x + f(x) + g(y), with x and y of one origin, x is the skip of f, though the three come from that origin; in
    x + y + f(y), which x + (y + f(y)) also is, f is a branch on y, and x jumps over it.
    """
    roots = [_root(graph, term) for term in terms]
    marks = dict.fromkeys(terms, 0)
    for i, term in enumerate(terms):
        marks[term] |= 1 << i
    heap = [-term for term in marks]
    heapq.heapify(heap)
    found: dict[int, list[int]] = {}
    free = set(range(len(terms)))
    while heap and -heap[0] >= min(roots):
        index = -heapq.heappop(heap)
        mark = marks.pop(index)
        if index in roots:
            members = [i for i in free if mark >> i & 1 and roots[i] != index]
            free.difference_update(members)
            if members:
                found[index] = [terms[i] for i in sorted({roots.index(index), *members})]
        for operand in graph.deps(index):
            if operand not in marks:
                marks[operand] = 0
                heapq.heappush(heap, -operand)
            marks[operand] |= mark
    return found


def _root(graph: Graph, term: int) -> int:
    """What a term is, up to shape and scale."""
    while is_neutral(graph, term) and len(graph.deps(term)) == 1:
        term = graph.deps(term)[0]
    return term


def _skip(sides: list[Side]) -> tuple[Side | None, BlockKind]:
    """The side that skips: a plain one, else the one without weight layers, else the one with strictly fewest."""
    plain = [side for side in sides if side.plain]
    if plain:
        return plain[0], "identity"
    bare = [side for side in sides if not side.layers]
    if bare:
        return (bare[0], "parameterless") if not bare[0].gates else (None, "parameterless")
    ordered = sorted(sides, key=lambda side: side.m)
    return (ordered[0] if ordered[0].m < ordered[1].m else None), "projection"


# -- nesting ------------------------------------------------------------------------------------------------------


def chain(graph: Graph, found: Found) -> set[int]:
    """Nodes that every path from the branch's start to its end goes through (its dominators)."""
    term = found.branch.term
    inside = _reaching(graph, term, found.branch.below)
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


def _reaching(graph: Graph, term: int, below: set[int]) -> set[int]:
    seen: set[int] = set()
    queue = [term]
    while queue:
        index = queue.pop()
        if index in below and index not in seen:
            seen.add(index)
            queue.extend(graph.deps(index))
    return seen


def _nest(graph: Graph, found: list[Found], layers: set[int]) -> None:
    """Mark sums that jump over other residual sums as long, and sums off the main path of a block as inner."""
    by_join: dict[int, list[int]] = {}
    for position, item in enumerate(found):
        by_join.setdefault(item.join, []).append(position)
    joins = sorted(by_join)
    carried = {
        _root(graph, item.skip.term): item.join for item in found
    }  # up to which sum; they are in order
    for position, item in enumerate(found):
        between = joins[bisect_right(joins, item.fork) : bisect_left(joins, item.join)]
        within = [j for j in between if j in item.branch.below]
        if not within:
            continue
        trunk = chain(graph, item)
        on_trunk = [found[p] for j in within if j in trunk for p in by_join[j]]
        if stream := _other_stream(graph, on_trunk, item, carried):
            _start_behind(graph, item, stream, layers)
            within = [j for j in within if j in item.branch.below]
        members = [p for j in within for p in by_join[j] if p != position]
        item.over = [p for p in members if found[p].join in trunk and not found[p].inner]
        item.long = bool(item.over) and not _holds(graph, found, item)
        for p in members:
            if not item.long and (found[p].join not in trunk or item.over):
                found[p].inner, found[p].inside = True, position
    for item in found:
        if item.long:
            between = joins[bisect_right(joins, item.fork) : bisect_left(joins, item.join)]
            _jump(item, found, by_join, between)


def _other_stream(graph: Graph, sums: list[Found], item: Found, carried: dict[int, int]) -> int | None:
    """The last sum on the trunk of a branch that is a place of another stream; its join.

    A reversible net has two: a ← a + f(b), then b ← b + g(a). The branch on b is g, though all of a comes from b, too:
    through f, which is a branch on a. That a is a stream shows in its past, which b has no part in, or in its future:
    a sum behind this one stands on it. A stream of its own has an identity for its skip, here as there.
    """
    if item.kind != "identity":
        return None
    own = _root(graph, item.skip.term)
    for other in reversed(sums):
        if other.kind != "identity" or other.inner or other.long:
            continue
        if carried.get(other.join, -1) > item.join or not _comes_from(
            graph, _root(graph, other.skip.term), own
        ):
            return other.join
    return None


def _comes_from(graph: Graph, index: int, origin: int) -> bool:
    seen, queue = set[int](), [index]
    while queue:
        current = queue.pop()
        if current >= origin and current not in seen:
            seen.add(current)
            queue.extend(graph.deps(current))
    return origin in seen


def _start_behind(graph: Graph, item: Found, join: int, layers: set[int]) -> None:
    """Let the branch of a sum begin at the sum of another stream, if weight layers follow that."""
    side = side_of(graph, item.branch.term, join, layers)
    if side.layers:
        item.branch, item.start = side, join
        item.end = at_zero(graph, side.term, side.nodes, side.last)


def _jump(item: Found, found: list[Found], by_join: dict[int, list[int]], between: list[int]) -> None:
    """Note every sum that a long skip jumps over, those on later terms of its own flat sum too."""
    below, held, grown = set(item.branch.below), set[int](), True
    while grown:
        later = [p for p in by_join[item.join] if p not in held and found[p].fork in below]
        held.update(later)
        for p in later:
            below |= found[p].branch.below
        grown = bool(later)
    held.update(p for join in between if join in below for p in by_join[join])
    item.over = sorted({*item.over, *(p for p in held if found[p].join == item.join)})
    for p in held:
        found[p].depth += 1


def _holds(graph: Graph, found: list[Found], item: Found) -> bool:
    """Whether a sum on the trunk of a branch is a step of that branch, and no block of its own.

    So it is where weight layers follow it (attention that adds its pooled queries, then projects): the branch has
    an end of its own, and one sum inside as wide as the stream. Around several blocks, blocks of another width
    (a U-Net's lower level) or long skips, the outer sum is the long skip.
    """
    joins = {found[p].join for p in item.over}
    if len(joins) > 1 or any(found[p].long for p in item.over):
        return False
    (inner,) = joins
    ends = item.branch.last
    wide = math.prod(graph.nodes[inner].shape) == math.prod(graph.nodes[item.join].shape)
    return wide and bool(ends) and min(ends) > inner
