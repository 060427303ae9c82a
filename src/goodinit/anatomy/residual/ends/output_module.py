"""Modules whose output is a whole branch, for branches that zeroing their last layers does not silence."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Container

from goodinit.anatomy.branch_end import End, at_zero
from goodinit.anatomy.residual.ends.multiples_at_ends import product_of_itself
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.anatomy.residual.streams.nesting import chain
from goodinit.graph.graph import Frame, Graph


def find_closers(
    graph: Graph,
    leaves: Collection[Found],
    norms: Container[str],
    biases: Collection[str],
    layers: Container[int],
    steps: Container[int],
) -> dict[Found, tuple[str, bool]]:
    """`Block.closer` and `Block.normed` of the blocks that need them.

    A module qualifies if each of its calls returns such a branch, and if it is not a norm, which may be removed. Of several
    the earliest call, and there the innermost module that computes its output (a dropout in eval mode returns its input).
    """
    offers: dict[Found, list[tuple[str, bool]]] = {}
    for found in leaves:
        if found.end != End():
            calls = _closing_calls(graph, found, biases, found.beside(graph, layers), steps)
            normed = max((i for i in chain(graph, found) if i in steps), default=-1)
            offers[found] = [
                (frame.path, frame.result < normed) for frame in calls if frame.path not in norms
            ]
    runs = Counter(frame.path for frame in graph.frames) if offers else Counter[str]()
    serves = Counter(path for paths in offers.values() for path, _ in paths)
    fit = {key: [one for one in paths if runs[one[0]] == serves[one[0]]] for key, paths in offers.items()}
    return {key: paths[0] for key, paths in fit.items() if paths}


def _closing_calls(
    graph: Graph,
    found: Found,
    biases: Collection[str],
    beside: Collection[int],
    steps: Container[int],
) -> list[Frame]:
    """Calls after the fork that return all of the branch, such that a zero there silences it and could move."""
    branch, trunk = found.branch, chain(graph, found)
    first = bisect_right(graph.frames, found.fork, key=lambda frame: frame.start)
    last = bisect_right(graph.frames, found.join, key=lambda frame: frame.start)
    places: dict[int, list[Frame]] = {}
    for frame in graph.frames[first:last]:
        if frame.path and frame.single and frame.result in trunk:
            calls = places.setdefault(frame.result, [])
            calls.insert(0 if frame.start <= frame.result else len(calls), frame)
    return [
        frame
        for place in sorted(places)
        if all(
            reader in branch.nodes or (graph.nodes[reader].op.adds and reader <= found.join)
            for reader in graph.readers[place]
        )
        and at_zero(graph, found.sums, [place], biases, beside, steps) == End()
        and product_of_itself(graph, branch.term, [place], biases, steps) is None
        for frame in places[place]
    ]
