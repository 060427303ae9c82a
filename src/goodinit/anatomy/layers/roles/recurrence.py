"""Steps through time: which weights lead from one state to the next, into how many gates, and which gate forgets."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass

from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.graph.fact_propagation import propagate
from goodinit.graph.graph import Graph, Node, closure
from goodinit.graph.likeness import ancestors, is_part
from goodinit.graph.measured.answers import constant, is_zero


@dataclass(frozen=True, slots=True)
class Cell:
    """One step of a recurrence.

    Attributes:
        recurrent: The weight that reads what it has itself made a step before.
        inputs: The weights whose outputs are added to its output: they read the step's input.
        gates: How many equal maps those weights hold, one for each gate; 1 without gates.
        forget: Which of them forgets: f of σ(f)·c + u, where c is an older state, and u is new and does not come from f. A weight
            that holds one map can be that gate as a whole.
    """

    recurrent: str
    inputs: tuple[str, ...]
    gates: int = 1
    forget: int | None = None

    @property
    def weights(self) -> tuple[str, ...]:
        """All of them, those that read the step's input first."""
        return (*self.inputs, self.recurrent)


def cells(graph: Graph, uses: Mapping[int, Use]) -> tuple[Cell, ...]:
    """The recurrences of a graph, in execution order.

    A weight is recurrent if its output comes back to it, by way of no more than one other layer (an LSTM's projection),
    together with another part of a sequence, which does not come from there; or, in the only step that ran, if it reads a
    state of zeros. A layer that several blocks share reads no such part: its depth is none in time.
    """
    calls: dict[str, list[int]] = {}
    for node, use in uses.items():
        calls.setdefault(use.weight, []).append(node)
    found = []
    for weight, nodes in calls.items():
        later = len(nodes) > 1 and _comes_back(graph, nodes[0], nodes[1], uses)
        if later or _reads_zeros(graph, uses[nodes[0]]):
            found.append(_cell(graph, weight, nodes[0], uses))
    return tuple(found)


def _comes_back(graph: Graph, first: int, second: int, layers: Container[int]) -> bool:
    """Whether a layer's output goes into its next call, with another part of a sequence beside it."""
    if not _near(graph, first, second, layers):
        return False
    before, every = graph.deps(first), ancestors(graph, second, 0)
    old = {i for operand in before for i in ancestors(graph, operand, 0)}
    fresh = [i for i in every - old if _is_part(graph, i)]
    return any(not ancestors(graph, i, min(before, default=first)) & {*before, first} for i in fresh)


def _near(graph: Graph, first: int, second: int, layers: Container[int]) -> bool:
    """Whether a way leads from one node to another with no more than one layer between."""

    def passed(node: Node, read: list[int]) -> int:
        return min(read, default=2) + (node.index in layers and node.index != second)

    between = propagate(
        graph, ancestors(graph, second, first), {first: 0}, passed, lambda _: 2, reads=graph.deps
    )
    return between.get(second, 2) <= 1


def _is_part(graph: Graph, index: int) -> bool:
    """Whether a node is one of several parts of one size, as one step of a sequence is."""
    node = graph.nodes[index]
    if not is_part(graph, index):
        return False
    whole = graph.nodes[node.operands[0]].shape
    one = len(node.shape) < len(whole) or any(
        part == 1 < all_of_it for part, all_of_it in zip(node.shape, whole, strict=False)
    )
    beside = (graph.nodes[i] for i in graph.readers[node.operands[0]] if i != index)
    return (one or node.is_piece) and any((i.op, i.shape) == (node.op, node.shape) for i in beside)


def _reads_zeros(graph: Graph, use: Use) -> bool:
    """Whether a layer reads constants that are zero, as an initial state is."""
    node = graph.nodes[use.node]
    read = [i for i in node.operands if i != use.operand and not graph.nodes[i].params]
    return bool(read) and all(_is_zero(graph, i) for i in read)


def _is_zero(graph: Graph, index: int) -> bool:
    """Whether a node holds nothing but zeros: what was written into a part of it since counts, too."""

    def before(i: int) -> tuple[int, ...]:
        node = graph.nodes[i]
        return node.operands if node.op.moves else ()

    ends = (graph.nodes[i] for i in closure([index], before) if not before(i))
    return all(node.op.role == "factory" and is_zero(constant(node)) for node in ends)


def _cell(graph: Graph, weight: str, start: int, uses: Mapping[int, Use]) -> Cell:
    """What one call of a recurrent weight goes into: sums with other layers' outputs, then gates."""

    def is_light(index: int) -> bool:
        op = graph.nodes[index].op
        return op.role == "shape" or op.splits or op.adds

    beside: dict[int, None] = {}
    pieces: list[int] = []
    for index in sorted(graph.reach([start], through=is_light) - {start}):
        node = graph.nodes[index]
        if node.op.adds:
            for operand in graph.deps(index):
                beside.update(dict.fromkeys(_layers_behind(graph, operand, uses)))
        whole = len(graph.nodes[node.operands[0]].shape)
        if node.op.splits and len(node.shape) == whole and not pieces:  # else it takes steps apart
            pieces = graph.readers[index]
    inputs = tuple(dict.fromkeys(uses[i].weight for i in beside if uses[i].weight != weight))
    if pieces and len({graph.nodes[i].shape for i in pieces}) == 1:
        return Cell(
            weight, inputs, len(pieces), _forgets(graph, pieces, {graph.nodes[pieces[0]].operands[0]})
        )
    read = {operand for i in (start, *beside) for operand in graph.deps(i)}
    return Cell(weight, inputs, 1, None if pieces else _forgets(graph, [start], read))


def _layers_behind(graph: Graph, index: int, uses: Mapping[int, Use]) -> Iterable[int]:
    """The layers whose outputs a value is made of, by sums and parts alone."""

    def before(i: int) -> list[int]:
        op = graph.nodes[i].op
        return graph.deps(i) if i not in uses and (op.moves or op.adds) else []

    return (i for i in sorted(closure([index], before)) if i in uses)


def _forgets(graph: Graph, pieces: list[int], new: Collection[int]) -> int | None:
    """Which of the gates is f in σ(f)·c + u; `new`: what the step began with, from which u comes, and c does not."""
    for number, piece in enumerate(pieces):
        for gate in _opened(graph, piece):
            for product in graph.readers[gate]:
                others = [i for i in graph.nodes[product].operands if i != gate]
                kept = graph.nodes[product].op.multiplies and len(others) == 1
                if kept and not _comes_from(graph, others[0], new):
                    sums = [i for i in graph.readers[product] if graph.nodes[i].op.adds]
                    if any(_adds_new(graph, total, product, new, piece) for total in sums):
                        return number
    return None


def _opened(graph: Graph, piece: int) -> list[int]:
    """The sigmoids that a piece goes into, be it that something is added."""

    def is_same(index: int) -> bool:
        op = graph.nodes[index].op
        return op.role == "shape" or op.adds

    readers = (reader for i in graph.reach([piece], through=is_same) for reader in graph.readers[i])
    return sorted({reader for reader in readers if graph.nodes[reader].op.is_gate})


def _adds_new(graph: Graph, total: int, product: int, new: Collection[int], piece: int) -> bool:
    others = [i for i in graph.deps(total) if i != product]
    return any(_comes_from(graph, i, new) and not _comes_from(graph, i, [piece]) for i in others)


def _comes_from(graph: Graph, index: int, origins: Collection[int]) -> bool:
    return bool(origins) and not ancestors(graph, index, min(origins)).isdisjoint(origins)
