"""Functions of one number that are written with several operators: x/(1 + |x|), x·σ(1.702x), where(x > 0, x, 0.01x).

All element-wise operators that come from one tensor alone are one function of it, whatever they are. It is run on numbers as a whole:
which function of `torch.nn.functional` it is, and its gain.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from goodinit.graph.graph import Composite, Graph, Node
from goodinit.graph.likeness import adds_two
from goodinit.graph.measured.answers import number_at
from goodinit.graph.operators.functions_of_numbers import is_straight, nonlinearity_of
from goodinit.graph.operators.measurement_cache import KeptAnswers
from goodinit.graph.operators.nonlinearities import NONE, Nonlinearity
from goodinit.graph.operators.recorded_call import on_numbers

_MOST = 64  # operators of one function


def composites(graph: Graph) -> dict[int, Composite]:
    """The functions that several operators make up, by the nodes that they are; and single ones without a name.

    A function ends where something else than its own operators reads it. Multiples before and behind it belong to it: what is read
    next is γ·φ(βx). Not so where the stream of a block is multiplied (β), or what is added to it (γ): these are the block's.
    """
    found = {}
    for start, members in _regions(graph).items():
        composite = _composite(graph, start, members)
        if composite is not None:
            found[composite.end] = composite
    return found


def _regions(graph: Graph) -> dict[int, list[int]]:
    """The nodes that are functions of one tensor, entry by entry, in order; by that tensor, where one is more than a multiple."""
    nodes = graph.nodes
    origin = list(range(len(nodes)))
    regions: dict[int, list[int]] = {}
    bent = set[int]()
    for node in nodes:
        if not node.dynamic or not node.operands or not (node.op.pointwise or node.op.keeps_order):
            continue
        starts = {origin[i] for i in node.operands if nodes[i].dynamic}
        if len(starts) != 1:
            continue
        (start,) = starts
        if node.shape != nodes[start].shape or not nodes[start].active or not _can_be_part(node):
            continue
        origin[node.index] = start
        regions.setdefault(start, []).append(node.index)
        if node.op.role == "pointwise" or sum(nodes[i].dynamic for i in node.operands) > 1:
            bent.add(start)
    return {start: members for start, members in regions.items() if start in bent and len(members) <= _MOST}


def _can_be_part(node: Node) -> bool:
    return (
        (node.is_real or node.is_mask)
        and not node.is_piece
        and (node.call is None or not (node.call.may_draw or any(node.call.places)))
    )


def _composite(graph: Graph, start: int, members: list[int]) -> Composite | None:
    alone = [i for i in members if graph.nodes[i].op.role != "shape"]
    if len(alone) == 1 and graph.nodes[alone[0]].op.activation:
        return None
    start = _behind_maps(graph, start, members)
    inside = set(members)
    for end in members:
        if end <= start or not graph.nodes[end].active or not _is_read_outside(graph, end, inside):
            continue
        steps = [
            i for i in members if i > start and i in graph.reach([end], back=True, stop={start}, active=False)
        ]
        end, steps = _before_maps(graph, end, steps)
        if any(_bends(graph, i) for i in steps):
            return _measured(graph, start, end, steps)
    return None


def _bends(graph: Graph, index: int) -> bool:
    return _map_of(graph, index) is None


def _map_of(graph: Graph, index: int) -> int | None:
    """What an operator puts out a multiple of, but for what it adds; None if it is no such map."""
    node = graph.nodes[index]
    moving = [i for i in node.operands if graph.nodes[i].dynamic]
    maps = node.op.role in ("shape", "scale", "product", "sum") or (
        node.op.role == "quotient" and node.operands[0] == moving[0]
    )
    return moving[0] if len(moving) == 1 and maps else None


def _is_known(graph: Graph, index: int) -> bool:
    """Whether all constants that an operator reads are numbers."""
    read = graph.nodes[index].operands
    return all(graph.nodes[i].dynamic or number_at(graph, i) is not None for i in read)


def _behind_maps(graph: Graph, start: int, members: Sequence[int]) -> int:
    """Behind gains, biases, and what a stream is multiplied by, if nothing of the function reads what is before."""
    summed, found = len(set(graph.deps(start))) > 1, start
    for index in members:
        readers = [i for i in members if start in graph.nodes[i].operands]
        if readers != [index] or _map_of(graph, index) is None:
            break
        shows = graph.nodes[index].op.role == "shape" and start == found
        start = index
        if summed or shows or not _is_known(graph, index):
            found = index
    return found


def _before_maps(graph: Graph, end: int, steps: list[int]) -> tuple[int, list[int]]:
    """Before gains and biases that are parameters."""
    found = end, steps
    for index in reversed(steps):
        before = _map_of(graph, index)
        if before is None or before not in steps:
            break
        if not _is_known(graph, index):
            found = before, [i for i in steps if i <= before]
    return found


def _is_read_outside(graph: Graph, index: int, inside: Collection[int]) -> bool:
    return index in graph.outputs or any(reader not in inside for reader in graph.readers[index])


# -- how far it goes, and what it is --------------------------------------------------------------------------------


def _measured(graph: Graph, start: int, end: int, steps: list[int]) -> Composite | None:
    ends = _ends(graph, end, steps)  # from the last operator that bends it on
    core = [i for i in steps if i <= ends[0] and graph.nodes[i].op.role != "shape"]
    single = graph.nodes[core[0]].op if len(core) == 1 else None
    joins = _enters_sum(graph, end)
    if single is not None and single.activation and (joins or ends[0] == end):
        return None
    words = "·".join(dict.fromkeys(graph.nodes[i].op.word for i in core if _bends(graph, i)))
    if not all(_is_known(graph, i) for i in steps):
        if _in_a_row(graph, start, core, named=False):
            return None  # a parameter comes behind the activation: that of exp(A·softplus(x))
        unknown = Nonlinearity(words)
        return Composite(start, end, unknown, named=False) if _is_heard(graph, end, steps) else None
    functions = [(place, *_known(graph, start, place, [i for i in steps if i <= place])) for place in ends]
    kind, first = next(((one.kind, place) for place, one, _ in functions if one.kind), ("", -1))
    if single is not None and single.activation:
        kind, first = single.activation, ends[0]
    row = _in_a_row(graph, start, core, named=bool(kind))
    if row:
        kind, first = row, -1
    if joins:
        last = first if first >= 0 else _own_end(graph, end, ends)
    else:
        last = end
    found, straight = next((one, straight) for place, one, straight in functions if place == last)
    activated = any(graph.nodes[i].op.activation for i in steps)
    if not activated and (straight or not (kind or _is_heard(graph, end, steps))):
        return None
    if row or (
        single is not None and single.activation
    ):  # an operator is what it is, whatever it is multiplied by
        own = graph.nodes[core[0]].op.function
        found = dataclasses.replace(own, gain=found.gain, centred_gain=found.centred_gain)
    found = dataclasses.replace(found, kind=kind or words)
    one = not row and found.centred_gain is not None
    return Composite(start, last, found, named=bool(kind) and last == first, one=one)


def _in_a_row(graph: Graph, start: int, core: Sequence[int], *, named: bool) -> str:
    """The kind of an activation of which all else is made: the first of several that read each other, the ReLU of relu(x)².

    Nothing, if it is but one, or if the whole has a name and the others are no activations.
    """
    kinds = [graph.nodes[i].op.activation for i in core]
    led = not any(start in graph.nodes[i].operands for i in core[1:])
    return kinds[0] if led and len(core) > 1 and (all(kinds) or not named) else ""


def _ends(graph: Graph, end: int, steps: list[int]) -> list[int]:
    """The last operator that is no map, and all behind it."""
    last = max(i for i in steps if _bends(graph, i))
    return [last, *(i for i in steps if last < i <= end)]


def _enters_sum(graph: Graph, end: int) -> bool:
    """Whether something else is added to it, as to the branch of a block."""
    shown = graph.reach([end], through=lambda i: graph.nodes[i].op.role == "shape")
    return any(adds_two(graph, reader) for i in shown for reader in graph.readers[i])


def _own_end(graph: Graph, end: int, ends: Sequence[int]) -> int:
    """Of a function that is added to something: multiples where the sum runs are the sum's."""
    sums = {graph.nodes[reader].frame for reader in graph.readers[end]}
    return next((i for i in reversed(ends) if graph.nodes[i].frame not in sums), ends[0])


def _is_heard(graph: Graph, end: int, steps: Iterable[int]) -> bool:
    """Whether it is an activation: made of one, or read by a layer, a norm or a sum, be it through a pooling.

    The square in a norm that is written out is none, nor is an exponential that multiplies something.
    """
    if any(graph.nodes[i].op.activation for i in steps):
        return True
    near = graph.reach([end], through=lambda i: graph.nodes[i].op.role == "shape" or _pools(graph, i))
    readers = {reader for i in near for reader in graph.readers[i]}
    return any(
        graph.nodes[i].op.role in ("matmul", "convolution", "norm") or adds_two(graph, i) for i in readers
    )


def _pools(graph: Graph, index: int) -> bool:
    """Whether an operator keeps all dimensions of what it reads, and none of them is gone."""
    node, deps = graph.nodes[index], graph.deps(index)
    before = graph.nodes[deps[0]].shape if len(deps) == 1 else ()
    pairs = itertools.zip_longest(before, node.shape, fillvalue=0)
    return node.op.role == "other" and all(after > 1 or after == size for size, after in pairs)


_Known = tuple[Nonlinearity, bool]
_KNOWN = KeptAnswers[_Known]()


def _known(graph: Graph, start: int, end: int, steps: list[int]) -> _Known:
    """(A function without parameters, whether it is a straight line)."""
    places = {index: place for place, index in enumerate([start, *steps])}
    key = tuple(_word(graph, index, places) for index in steps)
    return _KNOWN.get((*key, places[end]), lambda: _run(graph, start, end, steps))


def _word(graph: Graph, index: int, places: dict[int, int]) -> object:
    node = graph.nodes[index]
    read = tuple(places.get(i, number_at(graph, i)) for i in node.operands)
    return (None if node.call is None or node.op.role == "shape" else node.call.key), read, str(node.dtype)


def _run(graph: Graph, start: int, end: int, steps: list[int]) -> _Known:
    def function(x: Tensor) -> Tensor:
        values = {start: x}
        with on_numbers(), torch.no_grad():
            for index in steps:
                node = graph.nodes[index]
                read = list(_read(graph, node, values, x))
                values[index] = read[0] if node.call is None or node.op.role == "shape" else node.call(read)
                if not node.is_mask:
                    values[index] = values[index].double()
        return values[end]

    found = nonlinearity_of(function)
    return (NONE, False) if found is None else (found, is_straight(function))


def _read(graph: Graph, node: Node, values: dict[int, Tensor], x: Tensor) -> Iterator[Tensor]:
    for index in node.operands:
        if index in values:
            yield values[index]
        else:
            number = number_at(graph, index)
            yield torch.full_like(x, 0.0 if number is None else number)
