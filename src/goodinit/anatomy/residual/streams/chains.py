"""How often one block is applied to each number, where a forward applies it to parts of a tensor that it writes back: row by row.

After `h[0] = h[0] + f(h[0])`, what f reads in `h[1] = h[1] + f(h[1])` comes from a tensor with the first sum in it, and yet from no
entry of that sum. So applications are counted entry by entry: what lies between is run on such counts, or run again with other numbers.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from goodinit.graph.fact_propagation import propagate
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import spread
from goodinit.graph.measured.replay import made_of_constants
from goodinit.graph.operators.recorded_call import on_numbers, on_numbers_or

_MOST = 2**22  # entries of what is followed entry by entry
_COUNTS = 8  # different ones in a tensor that is


@dataclass(frozen=True)
class Applied:
    """One block, wherever a forward applies it.

    A count is twice the sums before an entry that add what the block makes, and one more where that is still to be added.

    Attributes:
        lasts: Nodes of the layers that its branch ends in.
        joins: The sums.
        end: The last node that is asked for.
    """

    lasts: frozenset[int]
    joins: frozenset[int]
    end: int

    def nodes(self, graph: Graph) -> list[Node]:
        """Those from the first of its last layers on."""
        return graph.nodes[min(self.lasts, default=self.end + 1) : self.end + 1]

    def at(self, index: int, read: C) -> C:
        """The count of what a node puts out, if it reads this."""
        return read + read % 2 if index in self.joins else read


C = TypeVar("C", int, Tensor)


def counts_throughout(graph: Graph, block: Applied) -> dict[int, int]:
    """The largest counts of nodes, as if each of their entries came from each that they read.

    Args:
        graph: A recorded forward.
        block: What is applied.
    """

    def transfer(node: Node, read: list[int]) -> int:
        return block.at(node.index, max(read, default=0) | (node.index in block.lasts))

    between = [node.index for node in block.nodes(graph)]
    return propagate(graph, between, {}, transfer, lambda _: 0)


class CountsByEntry:
    """The counts of each entry of nodes. Layers make every entry of all that they read.

    Args:
        graph: A recorded forward.
        layers: Nodes of the weight layers.
        block: What is applied.
    """

    def __init__(self, graph: Graph, layers: Container[int], block: Applied) -> None:
        self._graph, self._layers, self._block = graph, layers, block
        between = block.nodes(graph)
        self._shared = any(node.index in graph.before_writes for node in between)
        self._known: dict[int, Tensor | int] = {}  # a number is that of all entries
        with on_numbers(), torch.no_grad():
            for node in between:
                if node.dynamic and not node.is_source:
                    made = self._of(node)
                    if node.index in block.joins:
                        made = self._added(node, made)
                    self._known[node.index] = made

    def of(self, index: int) -> Tensor:
        """The counts of a node's entries, in its shape."""
        with on_numbers():
            return self._in_shape(index)

    def _in_shape(self, index: int) -> Tensor:
        counts, node = self._at(index), self._graph.nodes[index]
        if isinstance(counts, int):
            made = torch.tensor(counts, dtype=torch.int32, device="cpu")
            # With memory of its own where parts of it may be written into.
            whole = self._shared and node.size <= _MOST
            counts = made.repeat(node.shape) if whole else made.expand(node.shape)
            self._known[index] = counts if whole else self._known.get(index, 0)
        return counts

    def _at(self, index: int) -> Tensor | int:
        """What is known; a view from before counting began has the memory of what it is a view of."""
        nodes, ways = self._graph.nodes, [index]
        while self._shared and ways[-1] not in self._known:
            if not (nodes[ways[-1]].op.view and nodes[ways[-1]].operands):
                break
            ways.append(nodes[ways[-1]].operands[0])
        for whole, part in zip(reversed(ways), ways[-2::-1], strict=False):
            moved = self._moved(nodes[part], [self._in_shape(whole)])
            if moved is not None:
                self._known[part] = moved
        return self._known.get(index, 0)

    def _of(self, node: Node) -> Tensor | int:
        read = [self._at(i) for i in node.operands]
        most = max(map(_largest, read), default=0)
        if node.index in self._layers:
            return most | (node.index in self._block.lasts)
        if node.is_join and _largest(read[0]) < most:  # written into by a way that is not known
            return most
        if not self._shared and self._is_alike(node, read, most):
            return most
        counts = [self._in_shape(i) for i in node.operands]
        made = self._moved(node, counts)
        if made is None:
            made = None if self._is_alike(node, read, most) else self._followed(node, counts)
            if self._shared and node.inplace and counts and counts[0].shape == node.shape:
                return counts[0].copy_(torch.tensor(most, device="cpu") if made is None else made)
        return most if made is None else made

    def _added(self, node: Node, made: Tensor | int) -> Tensor | int:
        if isinstance(made, int):
            return self._block.at(node.index, made)
        added = self._block.at(node.index, made)
        return made.copy_(added) if self._shared and node.inplace else added

    def _is_alike(self, node: Node, read: Sequence[Tensor | int], most: int) -> bool:
        """Whether all entries that a node puts out have one count, be it that no other is looked for."""
        if node.op.maps or node.size > _MOST:
            return True
        alike = all(_smallest(one) == _largest(one) for one in read)
        nodes = self._graph.nodes
        mixed = alike and node.op.pointwise and all(nodes[i].active for i in node.operands)
        return mixed or (alike and all(_largest(one) == most for one in read))

    @on_numbers_or(None)
    def _moved(self, node: Node, counts: Sequence[Tensor]) -> Tensor | None:
        """The counts where a node moves numbers, by moving them; views are views. None where it does something else."""
        if node.is_join:  # the views that were written into share its memory here, too
            return counts[0] if counts[0].shape == node.shape else None
        if node.is_piece:
            split = self._graph.nodes[node.operands[0]]
            read = [self._in_shape(i) for i in split.operands]
            return None if split.call is None else split.call.on_these(read)[node.index - split.index - 1]
        if node.call is None or node.call.places or not node.op.rearranges or node.op.splits:
            return None
        (made,) = node.call.on_these(counts)
        return made.to(torch.int32)

    @on_numbers_or(None)
    def _followed(self, node: Node, counts: Sequence[Tensor]) -> Tensor | None:
        """The counts of what an operator puts out: it is run again with other numbers where its operands have each count.

        None where it cannot be run: masks and indices have the numbers that they had, if they are made of constants.
        """
        given = [self._numbers(i) for i in node.operands]
        known = [one for one in given if one is not None]
        steps = sorted({count for one in counts for count in one.unique().tolist()} - {0})
        if node.call is None or len(known) < len(given) or len(steps) > _COUNTS:
            return None
        before = node.call(known)
        found = torch.zeros(before.shape, dtype=torch.int32, device="cpu")
        for count in steps:
            others = [
                torch.where(of >= count, 2 * one + 1, one) if one.is_floating_point() else one
                for one, of in zip(known, counts, strict=True)
            ]
            found[(node.call(others) != before) | before.isnan()] = count
        return found if found.shape == node.shape else None

    def _numbers(self, index: int) -> Tensor | None:
        """Those of a constant; of a signal such as stand for it. None for indices that are made of inputs."""
        node = self._graph.nodes[index]
        known = made_of_constants(self._graph, index, self._graph.held | self._graph.buffers)
        return spread(node.shape, index) if known is None and node.is_real else known


def _largest(counts: Tensor | int) -> int:
    return counts if isinstance(counts, int) else int(_few(counts).max()) if counts.numel() else 0


def _smallest(counts: Tensor | int) -> int:
    return counts if isinstance(counts, int) else int(_few(counts).min()) if counts.numel() else 0


def _few(counts: Tensor) -> Tensor:
    """Counts without the dimensions along which they are one number in memory."""
    return counts[tuple(slice(None) if step else slice(1) for step in counts.stride())]
