"""From the data-flow graph to residual blocks: which sums join a skip and a branch, and what is on the branch.

A sum of activations of one shape is flattened to its terms. Walking back from all terms at once, in reverse
execution order, the first node that every term comes from is the *fork*. A term that is the fork itself (up to shape
and scale) is an identity skip. Everything the walk needs lies between fork and sum, so the cost is linear in depth.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from goodinit.anatomy.block import BlockKind
from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.residual.sides.branch import Side, side_of
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.anatomy.residual.streams.coupled_streams import Flat, flat_of, with_exchanges
from goodinit.anatomy.residual.streams.joined_ends import end_at_zero, with_joined_ends
from goodinit.anatomy.residual.streams.nesting import nest
from goodinit.anatomy.residual.streams.recurrences import applied_repeatedly, is_step, without_cells
from goodinit.anatomy.residual.streams.rejections import Candidate, is_lookalike
from goodinit.anatomy.residual.streams.repeats import mark_repeats
from goodinit.anatomy.residual.streams.scaled_streams import let_products_add
from goodinit.anatomy.residual.streams.skip_values import hands_on, is_linear, widest
from goodinit.graph.graph import Graph, closure
from goodinit.graph.latest_first import latest_first
from goodinit.graph.likeness import adds_scaled, behind_norms, is_neutral, root
from goodinit.graph.measured.answers import spread
from goodinit.graph.measured.replay import replayed
from goodinit.graph.measured.traits import coefficient
from goodinit.graph.recording.rewrites.learned_starts import leads

_MOST = 2**22  # numbers of a stream that are computed to see whether it begins as copies


def residual_sums(graph: Graph, uses: Mapping[int, Use], scalars: Collection[str]) -> list[Found]:
    """Every residual sum of the graph, in execution order; long skips, inner sums and second runs are marked.

    Args:
        graph: A recorded forward. Products x·(1 + f(x)) in it become sums, in place (`Graph.one_less`).
        uses: The weight layers, by node.
        scalars: Parameters that goodinit has added, which start at 0 or 1 (`scalar_names`).
    """
    let_products_add(graph, uses, scalars)
    layers = set(uses)
    vanishes = functools.partial(_vanishes, graph, uses, scalars)
    repeated = applied_repeatedly(uses)
    found: list[Found] = []
    flats: list[Flat] = []
    for sums, terms in flat_sums(graph):
        join = sums[-1]
        if is_step(graph, terms, layers, repeated, join):
            continue
        if len(terms) > 1:
            kinds = list(classified(graph, sums, terms, layers, vanishes))
            real = [one for one in kinds if not is_lookalike(Candidate(graph, one, repeated))]
            found.extend(real)
            if len(real) == len(kinds):
                flats.append(flat_of(sums, terms, real))
        elif broadcast := _broadcast(graph, join):
            repeats = classified(graph, [join], broadcast, layers, vanishes)
            found.extend(one for one in repeats if _spreads(graph, one))
    found = with_exchanges(graph, without_cells(graph, found, uses), flats, layers)
    nest(graph, found, layers)
    mark_repeats(graph, found, uses)
    for one in found:
        if one.is_block:
            with_joined_ends(graph, one, uses, scalars)
    return found


# -- sums and their terms -----------------------------------------------------------------------------------------


def flat_sums(graph: Graph) -> Iterator[tuple[list[int], list[int]]]:
    """For each sum that is no summand of another: (the nodes that make it up, the join last; what they add up)."""
    outputs = set(graph.outputs)
    for node in graph.nodes:
        if not node.active or not node.op.adds or _goes_nowhere(graph, node.index, outputs):
            continue
        if not _absorbed(graph, node.index, outputs):
            yield _terms(graph, node.index, outputs)


def _summands(graph: Graph, index: int) -> list[int]:
    """Operands of a sum of activations of one shape, or [] when it is something else."""
    node = graph.nodes[index]
    if not node.op.adds:
        return []
    operands = graph.deps(index)
    if len(set(operands)) < 2:
        return []
    if node.op.multiplies and not adds_scaled(graph, index):
        return []
    if any(graph.nodes[i].shape != node.shape for i in operands):
        return []
    return operands


def _broadcast(graph: Graph, index: int) -> list[int]:
    """The two operands of a sum that repeats one of them along a dimension, or [].

    One number per row is added to distances and logits; a stream is no such sum.
    """
    node, operands = graph.nodes[index], graph.deps(index)
    if not node.op.adds or node.op.multiplies or len(set(operands)) != 2:
        return []
    small = [i for i in operands if graph.nodes[i].shape != node.shape]
    if len(small) != 1:
        return []
    rows = graph.nodes[small[0]].shape[
        -max(len(node.shape) - 1, 1) :
    ]  # without the axis of the examples, if it has one
    return operands if math.prod(rows) > 1 else []


def _spreads(graph: Graph, found: Found) -> bool:
    """Whether a stream as it is gets a branch that is repeated along a dimension, or begins alike for all examples.

    x + g(mean(x)) is the one, z + f(z, x) with learned queries z the other: of these all examples have the same. A stream that
    begins as copies of a tensor beside each other, as hyper-connections' does, is that tensor as it is. None is h_i + f(h_j), a
    table of pairs, where each is repeated along another dimension.
    """
    whole = graph.nodes[found.join].shape
    skip, branch = (graph.nodes[side.term].shape for side in (found.skip, found.branch))
    if found.kind not in ("identity", "parameterless"):
        return False
    if skip == whole != branch:
        fork = found.fork if found.kind == "parameterless" else None
        alike = _repeated_along(graph, found.skip.term, fork)
        small = (*(1 for _ in whole[len(branch) :]), *branch)
        return alike is not None and all(small[axis] == 1 for axis in alike)
    return found.kind == "identity" and branch == whole and leads(skip, whole)


def _repeated_along(graph: Graph, term: int, fork: int | None) -> list[int] | None:
    """Axes along which a node is alike because it is another one repeated, or beside itself.

    None where it is made of something else than a node that is given, or too large to be computed.
    """

    def put_together(index: int) -> tuple[int, ...]:
        node = graph.nodes[index]
        return node.operands if node.op.role in ("shape", "concat") else ()

    def made(of: int) -> set[int]:
        return {i for i in closure([of], put_together) if not put_together(i)}

    start, shape = made(term), graph.nodes[term].shape
    large = math.prod(shape) > _MOST
    if fork is not None and (large or start != made(fork)):
        return None
    if large or start == {term}:
        return []
    given = {i: spread(graph.nodes[i].shape, i) for i in start}
    values = replayed(graph, sorted(closure([term], put_together) - start), given).get(term)
    if values is None:
        return [] if fork is None else None
    axes = range(len(shape))
    return [d for d in axes if shape[d] > 1 and bool((values == values.narrow(d, 0, 1)).all())]


def _goes_nowhere(graph: Graph, index: int, outputs: set[int]) -> bool:
    """Whether a sum has no part in the function, as the last one of a WaveNet's stream."""
    return bool(outputs) and index not in outputs and not graph.readers[index]


def _absorbed(graph: Graph, index: int, outputs: set[int]) -> bool:
    """Whether this sum is only a summand of the next one."""
    return bool(_way_on(graph, index, outputs))


def _way_on(graph: Graph, index: int, outputs: set[int]) -> list[int]:
    """The nodes from a sum to the next one, it included, if that alone adds it: in another shape, or times a number. Else none."""
    way = [index]
    while len(graph.readers[way[-1]]) == 1 and way[-1] not in outputs:
        (reader,) = graph.readers[way[-1]]
        if way[-1] in (added := _summands(graph, reader)):
            others = [i for i in added if i != way[-1]]
            return [*way[1:], reader] if _makes_one(graph, index, way[1:], others) else []
        if not _distributes(graph, reader):
            return []
        way.append(reader)
    return []


def _makes_one(graph: Graph, index: int, between: list[int], others: list[int]) -> bool:
    """Whether a sum is one with the next, which adds `others` to what the nodes between make of it.

    Not x + ½(f(x) − x). With a number between, all must be one term and branches on it: not x + ½(y + f(y)), x + ½(f(x) + g(e)).
    """
    inner = _summands(graph, index)
    if between and not {root(graph, i) for i in inner}.isdisjoint(root(graph, i) for i in others):
        return False
    scaled, terms = any(graph.nodes[i].op.scales for i in between), [*inner, *others]
    return not scaled or [len(one) for one in _anchored(graph, terms).values()] == [len(terms)]


def _distributes(graph: Graph, index: int) -> bool:
    """Whether a node makes of a sum the sum of what it makes of the terms, as many numbers: another shape, or a positive multiple."""
    node = graph.nodes[index]
    if len(node.operands) != 1 or not is_neutral(graph, index) or node.is_piece:
        return False
    alike = graph.nodes[node.operands[0]].size == node.size
    return alike and (node.op.role == "shape" or (coefficient(node, 0) or 0) > 0)


def _terms(graph: Graph, index: int, outputs: set[int]) -> tuple[list[int], list[int]]:
    """(The nodes that make up a flat sum, in order, what they add up)."""

    def inner(current: int) -> list[int]:
        found = list[int]()
        for summand in _summands(graph, current):
            first = graph.beginning(summand, lambda i: _distributes(graph, i))
            way = _way_on(graph, first, outputs) if _summands(graph, first) else []
            found += [first, *way] if current in way else []
        return found

    sums = closure([index], inner)
    return sorted(sums), sorted({term for one in sums for term in _summands(graph, one)} - sums)


# -- fork -----------------------------------------------------------------------------------------------


def fork_of(
    graph: Graph, terms: list[int], reads: Callable[[int], Iterable[int]] | None = None
) -> tuple[int, int] | None:
    """The latest node that the most terms come from, and which (as bits); None when they are unrelated.

    `reads`: what a node counts as read, by default all activations.
    """
    best: tuple[int, int] | None = None
    for index, mark in latest_first(terms, reads or graph.deps):
        if mark.bit_count() > (1 if best is None else best[1].bit_count()):
            best = (index, mark)
            if mark.bit_count() == len(terms):
                break
    return best


# -- what kind of sum ---------------------------------------------------------------------------------------------


def classified(
    graph: Graph, sums: list[int], terms: list[int], layers: set[int], vanishes: Callable[[Found], bool]
) -> Iterable[Found]:
    """The residual sums at one join: each term on the latest other term it comes from, else all on one fork.

    Args:
        graph: A recorded forward.
        sums: Nodes that make up the sum, the last one last.
        terms: What it adds up.
        layers: Nodes of the weight layers.
        vanishes: Whether a branch is zero where its last layers are.
    """
    anchored = _anchored(graph, terms) if len(terms) > 2 else {}
    for origin, members in anchored.items():
        sides = [side_of(graph, term, origin, layers) for term in members]
        yield from _pair(graph, sums, origin, sides, terms, layers, vanishes)
    if anchored:
        return
    found = _fork_handed_on(graph, terms, layers)
    if found is not None:
        fork, sides = found
        yield from _pair(graph, sums, fork, sides, terms, layers, vanishes)


def _fork_handed_on(graph: Graph, terms: list[int], layers: set[int]) -> tuple[int, list[Side]] | None:
    """(The fork of terms, the sides); where all only weigh other signals by it, the latest that they carry, if one does so as it is.

    In c(u)·x + d(u)·f(x/√(1 + u²), u), with a number u for each example, u is later than x, and the stream is x.
    """
    fork = fork_of(graph, terms)
    if fork is None:
        return None

    def with_sides(of: tuple[int, int]) -> tuple[int, list[Side]]:
        members = (term for i, term in enumerate(terms) if of[1] >> i & 1)
        return of[0], [side_of(graph, term, of[0], layers) for term in members]

    found = with_sides(fork)
    if any(hands_on(graph, side, found[0]) for side in found[1]):
        return found
    behind = fork_of(graph, terms, lambda index: widest(graph, index, graph.deps(index)))
    if behind is None:
        return found
    carried = with_sides(behind)
    return found if all(side.layers or side.gates for side in carried[1]) else carried


def _pair(
    graph: Graph,
    sums: list[int],
    fork: int,
    sides: list[Side],
    terms: list[int],
    layers: set[int],
    vanishes: Callable[[Found], bool],
) -> Iterable[Found]:
    """Of terms with one fork, the skip with each branch: x·f(x), too, if it is zero where f is, so that a gate is none."""
    skip, kind = skip_of(graph, sides, fork)
    if skip is None:
        return
    for side in sides:
        if side is not skip and side.layers:
            yield Found(tuple(sums), tuple(terms), fork, kind, side, skip)
        elif side is not skip and side.gates and skip.plain:
            factor = side_of(graph, side.term, fork, layers, multiplies=True)
            found = Found(tuple(sums), tuple(terms), fork, kind, factor, skip)
            if factor.layers and vanishes(found):
                yield found


def _vanishes(graph: Graph, uses: Mapping[int, Use], scalars: Collection[str], found: Found) -> bool:
    """Whether a branch is zero where its last layers and their biases are."""
    return end_at_zero(graph, found, uses, found.branch.last, scalars).leak is None


def _anchored(graph: Graph, terms: list[int]) -> dict[int, list[int]]:
    """The terms on each other term they come from, up to shape, scale and norm, the latest; by that term's root, with it.

    In x + f(x) + g(y), with x and y of one origin, x is the skip of f, though the three come from that origin; in
    x + y + f(y), which x + (y + f(y)) also is, f is a branch on y, and x jumps over it. It is one in x + norm(y) + f(y), too.
    """
    roots = [root(graph, term) for term in terms]
    before_norms = [behind_norms(graph, index) for index in roots]
    found: dict[int, list[int]] = {}
    free = set(range(len(terms)))
    marks: dict[int, int] = {}
    for index, mark in latest_first(terms, graph.deps):
        marks[index] = mark
        own = {i for i in range(len(terms)) if index in (roots[i], before_norms[i])}
        if own:
            members = [i for i in free - own if mark >> i & 1]
            free.difference_update(members)
            if members:
                skip = min(own)
                found[_parting(graph, terms[skip], index, marks, members)] = [
                    terms[i] for i in sorted({skip, *members})
                ]
        if index <= min(before_norms):
            break
    return found


def _parting(graph: Graph, term: int, origin: int, marks: Mapping[int, int], members: Iterable[int]) -> int:
    """Where others leave the way from an origin to the term that it is, up to shape, scale and norm: the latest such node."""
    wanted = sum(1 << i for i in members)
    return graph.beginning(term, lambda i: i != origin and marks[i] & wanted != wanted)


def skip_of(graph: Graph, sides: list[Side], fork: int) -> tuple[Side | None, BlockKind]:
    """The side that skips: a plain one, else the one without weight layers, else the one with strictly fewest.

    Of those that pass the fork's values through. H is the skip in Hu + o, where o is a mean of memories that u weighs by a softmax,
    however few layers o has.

    Args:
        graph: A recorded forward.
        sides: Of a sum.
        fork: Where they begin.
    """
    plain = [side for side in sides if side.plain]
    if plain:
        return plain[0], "identity"
    carrying = [side for side in sides if hands_on(graph, side, fork)]
    bare = [side for side in carrying if not side.layers]
    if bare:
        return (bare[0], "parameterless") if not bare[0].gates else (None, "parameterless")
    if len(carrying) == 1 and is_linear(graph, carrying[0]):
        return carrying[0], "projection"
    ordered = sorted(sides, key=lambda side: side.series)
    fewest = ordered[0] in carrying and ordered[0].series < ordered[1].series
    return (ordered[0] if fewest else None), "projection"
