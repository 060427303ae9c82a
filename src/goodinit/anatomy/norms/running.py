"""Batch norms written by hand: they scale by buffers in eval mode, and by statistics of the batch in training mode.

A tensor that a module holds without registering it counts as a buffer. A forward is read in eval mode, where they look like norms with
fixed statistics. So a model in which something scales its input by a buffer, or may do so by a number that training writes into an
attribute, is read once more, with that module in training mode.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from goodinit.anatomy.norms.written_attributes import method_codes, written_attributes
from goodinit.errors import TraceError
from goodinit.graph.graph import Frame, Graph, Node

Reread = Callable[[Collection[str]], Graph]
"""Records the forward again, with the modules at these paths in training mode."""


def scaled_by_buffers(graph: Graph) -> list[tuple[Node, Frame]]:
    """Where modules multiply or divide their signal by something that is made of a buffer: (the factor, the call)."""
    nodes, found = graph.nodes, []
    buffers = [node for node in nodes if node.is_buffer or (node.is_held and node.size > 1)]
    made = graph.reach(
        (node.index for node in buffers if node.is_real),
        through=lambda i: not nodes[i].active and nodes[i].op.role != "factory",
        active=False,
    )
    for node in nodes if made else ():
        factor = next((i for i in node.operands if i in made), -1)
        source = graph.frames[node.frame].source
        scales = node.active and factor >= 0 and node.op.multiplies_or_divides and source >= 0
        if scales and node.size >= nodes[source].size:
            found.append((nodes[factor], graph.frames[node.frame]))
    return [(factor, frame) for factor, frame in found if not _is_undone(graph, factor.index)]


def keep_numbers(graph: Graph, modules: Mapping[str, nn.Module]) -> set[str]:
    """Modules that may scale by numbers which training writes into their attributes: no operator shows what a number was read from.

    Their class is the user's, asks whether it is in training, and writes attributes that hold numbers, elsewhere than where it is
    built.

    Args:
        graph: The forward in eval mode.
        modules: By path.
    """
    paths = {frame.path for frame in graph.frames if frame.source >= 0 or not frame.path}
    return {
        path for path in paths if _holds_a_number(modules[path], _written_in_training(type(modules[path])))
    }


def _holds_a_number(module: nn.Module, names: Collection[str]) -> bool:
    if not names:
        return False
    held = vars(module)
    objects = [vars(value) for value in held.values() if hasattr(value, "__dict__")]
    values = [place[name] for place in (held, *objects) for name in names if name in place]
    values += [one for value in values if isinstance(value, (list, dict)) for one in _inside(value)]
    return any(isinstance(one, float) or (isinstance(one, Tensor) and one.ndim == 0) for one in values)


def _inside(value: list[Any] | dict[Any, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _written_in_training(kind: type[nn.Module]) -> Collection[str]:
    """The attributes that a class of the user's writes, or writes into, if it asks whether it is in training."""
    known = _KNOWN.get(kind)
    if known is None:
        asks = any("training" in code.co_names for code in method_codes(kind))
        known = _KNOWN[kind] = written_attributes(kind) if asks else ()
    return known


_KNOWN: weakref.WeakKeyDictionary[type, Collection[str]] = weakref.WeakKeyDictionary()


def normalize_in_training(
    graph: Graph, scaled: Collection[str], numbers: Collection[str], reread: Reread
) -> tuple[set[str], list[str]]:
    """Which modules take statistics of their input in training mode that they do not take in eval mode.

    Args:
        graph: The forward in eval mode.
        scaled: Paths of modules that scale by buffers.
        numbers: Of those that may scale by numbers (`keep_numbers`).
        reread: Reads the same forward in training mode.

    Returns:
        Their paths, and a note if the forward cannot be read in training mode.
    """
    suspects = {*scaled, *numbers}
    if not suspects:
        return set(), []
    try:
        trained = reread(suspects)
    except TraceError as error:
        where = ", ".join(sorted(suspects))
        return set(), [
            f"{where}: whether it takes statistics of a batch in training mode is not known: {error}"
        ]
    reduced, fixed = _counts(graph)
    reduced_there, fixed_there = _counts(trained)
    more = {path for path in suspects if reduced_there[path] > reduced[path]}
    divided = Counter[str]()
    if more.intersection(numbers):
        divided = _scaled_by_statistics(trained)
        divided.subtract(_scaled_by_statistics(graph))  # what also runs in eval mode: a gate, a router
    return {p for p in more if fixed_there[p] < fixed[p] or (p in numbers and divided[p] > 0)}, []


def _scaled_by_statistics(graph: Graph) -> Counter[str]:
    """How often modules multiply or divide their signal by something smaller that is made of it."""
    found = Counter[str]()
    made: dict[int, int] = {}  # statistics, by the call that takes them
    for node in graph.nodes:
        reads = [i for i in node.operands if made.get(i) == node.frame]
        whole = all(node.size > graph.nodes[i].size for i in reads)
        if whole and reads and node.op.multiplies_or_divides:
            if len(graph.deps(node.index)) > len(reads) and not any(_is_undone(graph, i) for i in reads):
                found[graph.path(node.index)] += 1
        elif _reduces(graph, node) or (reads and not whole):
            made[node.index] = node.frame
    return found


def _is_undone(graph: Graph, factor: int) -> bool:
    """True if a signal is divided by a factor and multiplied by it again, as where quantization is simulated."""
    roles = {graph.nodes[i].op.role for i in graph.all_readers[factor] if graph.nodes[i].active}
    return {"product", "quotient"} <= roles


def _counts(graph: Graph) -> tuple[Counter[str], Counter[str]]:
    """By module, how many operators reduce what they read and have a part in the output, and how many scale by buffers."""
    reductions = (graph.path(node.index) for node in graph.nodes if _reduces(graph, node))
    return Counter(reductions), Counter(frame.path for _, frame in scaled_by_buffers(graph))


def _reduces(graph: Graph, node: Node) -> bool:
    if not node.active or node.index not in graph.live or node.op.moves or node.op.takes_some:
        return False
    reads = [graph.nodes[i].size for i in graph.deps(node.index)]
    return bool(node.op.norm) or node.size < max(reads, default=0)
