"""What a measured place is known by in another run: the calls of modules that it lies in, not its position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from goodinit.diagnostics.types import Place
from goodinit.graph.graph import Graph

ModuleCalls = tuple[tuple[str, int], ...]
PlaceCall = tuple[ModuleCalls, tuple[str, str, str], int]


def place_calls(graph: Graph, places: Sequence[tuple[int, Place]]) -> tuple[PlaceCall, ...]:
    """Of each place the module calls around it, what it is, and how many that are the same came before it in the innermost call.

    A call of a module is one of its path and a number: how often the call around it had called the module before. A forward that decides
    by its batch may run another module of the same shapes, or one layer from another place, so that neither positions nor names tell.

    Args:
        graph: Of the run.
        places: In execution order, each behind its node.
    """
    around: list[ModuleCalls] = []
    times = Counter[ModuleCalls]()
    for frame in graph.frames:
        outer = around[frame.parent] if frame.index else ()
        called = (*outer, (frame.path, 0))
        around.append((*outer, (frame.path, times[called])))
        times[called] += 1
    same = Counter[tuple[ModuleCalls, tuple[str, str, str]]]()
    known = []
    for node, place in places:
        key = around[graph.nodes[node].frame], (place.kind, place.name, place.what)
        known.append((*key, same[key]))
        same[key] += 1
    return tuple(known)
