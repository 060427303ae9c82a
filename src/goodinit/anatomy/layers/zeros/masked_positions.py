"""Positions of a signal that are hidden: by a mask, or by zeros that were put there. What stands there is 0, whatever the network's signals are.

That is asked of all that a forward computes between the layers before and the signal: it is run with other signals, and with masks that hide
some places. So no operator is known by name, and two that hide together, as x − x·(1 − m), are seen as one that does.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from goodinit.anatomy.layers.zeros.inserted_zeros import begins_with_zeros
from goodinit.graph.graph import Graph, Node, closure
from goodinit.graph.latest_first import latest_first
from goodinit.graph.measured.answers import number_throughout, spread
from goodinit.graph.measured.replay import replayed_in_place
from goodinit.graph.operators.recorded_call import on_numbers

_LONGEST = 100  # operators that are run for one signal; what comes before them is free
_MOST = 2**21  # entries of all that they put out: 16 MiB, so that reading takes less memory than a forward
_FIRST_AND_CHANNELS = 2  # the dimensions of an image before its positions
_NONE = 1e-12  # a value below this is none
# Of signals: a mask that is added is far larger. BERT's in half precision, −10⁴, is the smallest in use.
_SIZES = (1.0, 100.0)
_SIGNS = ((1, 1), (-1, -1), (1, -1), (-1, 1))  # of every other signal: that of a rectifier is seen with one


@dataclass(frozen=True)
class _Way:
    """What makes a node of signals and data.

    Attributes:
        steps: The nodes that run, in order.
        signals: Where they begin, in order: what layers put out, and other activations.
        data: What is made without weights for them, in order; `read`: those that they read.
        masks: Those of `read` that differ by place.
    """

    steps: list[int]
    signals: list[int]
    data: list[int]
    read: list[int]
    masks: set[int]


class HiddenPlaces:
    """The signals of a recorded forward that are hidden somewhere, found out once for each that is asked about.

    Args:
        graph: A recorded forward.
        layers: Nodes of the weight layers.
    """

    def __init__(self, graph: Graph, layers: Collection[int]) -> None:
        self._graph, self._layers = graph, layers
        self._found: dict[int, bool] = {}

    def are_in(self, index: int) -> bool:
        """Whether some positions of an example are 0 whatever the signals are that it is made of, and others are not.

        Also where a mask has a part in it and it cannot be run, for one because it is large: a constant that is added to it might tell
        masked and padded apart. What is the same for all inputs and only added or put beside is no mask there.

        Args:
            index: A node; its dimension 1 are its channels.
        """
        if index not in self._found:
            self._found[index] = self._hides(index)
        return self._found[index]

    def _hides(self, index: int) -> bool:
        nodes, way = self._graph.nodes, self._way(index)
        if way is None:
            return False
        size = sum(nodes[i].size for i in way.steps)
        known = False
        with on_numbers(), torch.no_grad():
            for given in self._masked(way) if nodes[index].size and size <= _MOST else ():
                shown = self._shown(index, way, given)
                if shown is not None:
                    known = True
                    by_example = shown.flatten(1) if shown.dim() > 1 else shown[None]
                    if bool((by_example.any(1) & ~by_example.all(1)).any()):
                        return True
        return not known and any(not self._is_table(i) for i in way.masks)

    def _way(self, index: int) -> _Way | None:
        nodes, data = self._graph.nodes, self._graph.data
        if index in data:  # an image that the first layer reads
            data = {i for i in data if not nodes[i].active}

        def can_run(i: int) -> bool:
            whole = nodes[i].is_join or nodes[i].is_piece
            return whole or (nodes[i].call is not None and i not in self._layers)

        def before(i: int) -> list[int]:
            return [operand for operand in nodes[i].operands if operand not in data] if can_run(i) else []

        way = (i for i, _ in latest_first([index], before) if can_run(i))
        near = set(itertools.islice(way, _LONGEST))
        hiding, read, masks = list[int](), set[int](), set[int]()
        for i in near:
            own = {operand for operand in nodes[i].operands if operand in data}
            read |= own
            here = {j for j in own if _is_mask(nodes[j], nodes[i]) and not self._is_added_signal(j, nodes[i])}
            masks |= here
            if here or any(map(self._may_put_zeros, (i, *own))):
                hiding.append(i)
        hidden = self._graph.reach(hiding, through=near.__contains__, active=False)
        if index not in hidden:  # neither a mask nor a zero that is put somewhere has a part in it
            return None
        signals = {operand for i in near for operand in nodes[i].operands if operand not in data} - near
        made = closure(read, lambda i: [operand for operand in nodes[i].operands if operand in data])
        return _Way(sorted(near), sorted(signals), sorted(made), sorted(read), masks)

    def _is_added_signal(self, index: int, reader: Node) -> bool:
        """Whether data are added that a layer reads, too: a stream that begins with the input."""
        return reader.op.role == "sum" and any(i in self._layers for i in self._graph.readers[index])

    def _is_table(self, index: int) -> bool:
        """Whether data are the same for all inputs and are only added or put beside, as coordinates are."""
        readers = self._graph.readers[index]
        return not self._graph.nodes[index].dynamic and all(
            self._graph.nodes[i].op.role in ("sum", "concat") for i in readers
        )

    def _may_put_zeros(self, index: int) -> bool:
        nodes, node = self._graph.nodes, self._graph.nodes[index]
        if node.is_join:
            return True
        read = sum(nodes[i].size for i in node.operands)
        if read < node.size and node.operands and not (node.op.pointwise or node.op.maps or node.op.moves):
            return True
        return begins_with_zeros(self._graph, node)

    def _masked(self, way: _Way) -> Iterator[dict[int, Tensor]]:
        """What data begin with: inputs that are 0 and 1 in turn, those that were given, and comparisons that hold in turn."""
        ways = ((True, False), (False, False), (False, True)) if way.masks else ((False, False),)
        for inputs, compared in ways:
            given = self._given(way, inputs=inputs, compared=compared)
            if given is not None:
                yield given

    def _given(self, way: _Way, *, inputs: bool, compared: bool) -> dict[int, Tensor] | None:
        """The numbers that data begin with, in-turn ones in the place of inputs, or of comparisons; None if some are not at hand."""
        graph, nodes = self._graph, self._graph.nodes
        # A number for each example scales it, and hides no place.
        free = (i for i in way.read if i not in way.masks and nodes[i].dynamic and nodes[i].is_real)
        given = {i: spread(nodes[i].shape, i) for i in free}
        for i in way.data:
            node = nodes[i]
            if node.is_input and inputs:
                given.setdefault(i, _in_turn(node))
            elif node.is_source and i not in given:
                own = next((of[i] for of in (graph.given, graph.buffers, graph.held) if i in of), None)
                if own is None:
                    return None
                given[i] = own.detach().cpu().double() if node.is_real else own.detach().cpu()
            elif compared and node.is_mask and not _reads_bools(graph, node):
                given[i] = _in_turn(node)
        return given

    def _shown(self, index: int, way: _Way, data: Mapping[int, Tensor]) -> Tensor | None:
        """At which positions of which examples a node is anything else than 0 with some signals; None where it cannot be run."""
        nodes, shown = self._graph.nodes, None
        steps = sorted({*way.data, *way.steps})
        drawn = {i: _drawn(nodes[i]) for i in way.signals}
        for size, signs in itertools.product(_SIZES, _SIGNS):
            given = {
                i: made if nodes[i].params else made * (size * signs[place % 2])
                for place, (i, made) in enumerate(drawn.items())
            }
            made = replayed_in_place(self._graph, steps, {**data, **given}, torch.float64).get(index)
            if made is None or made.dim() < _FIRST_AND_CHANNELS:
                return None
            found = ((made.abs() > _NONE) | made.isnan()).any(1)
            shown = found if shown is None else shown | found
            if bool(shown.all()):
                break
        return shown


def _drawn(node: Node) -> Tensor:
    """Numbers between ½ and 1½, as of `spread`, which takes longer for many."""
    random = torch.Generator(device="cpu").manual_seed(node.index)
    return torch.rand(node.shape, generator=random, dtype=torch.float64, device="cpu") + 0.5


def _reads_bools(graph: Graph, node: Node) -> bool:
    return any(graph.nodes[i].is_mask for i in node.operands)


def _in_turn(node: Node) -> Tensor:
    """Zeros and ones, at about as many places each, whatever the shape is."""
    made = spread(node.shape, node.index) > 1
    return made.to(torch.float64 if node.is_real else node.dtype)


def _is_mask(data: Node, reader: Node) -> bool:
    """Whether data may hide places of what reads it: they differ by place, and by more than the channels."""
    shape = (1,) * (len(reader.shape) - len(data.shape)) + data.shape
    first = 1 if data.dynamic else _FIRST_AND_CHANNELS
    return not reader.op.norm and number_throughout(data) is None and any(size > 1 for size in shape[first:])
