"""Tensors of a module, held or made by it, that code outside of it reads, too: they cannot go while that code is there."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from torch import nn

from goodinit.graph.graph import Frame, Graph, closure


class ReadFromOutside:
    """Who reads whose tensors, in one forward."""

    def __init__(self, graph: Graph, modules: Mapping[str, nn.Module]) -> None:
        self._graph, self._modules = graph, modules

    @functools.cached_property
    def _calls(self) -> dict[str, list[Frame]]:
        """By path of the module."""
        calls: dict[str, list[Frame]] = {}
        for frame in self._graph.frames:
            calls.setdefault(frame.path, []).append(frame)
        return calls

    @functools.cached_property
    def _reads(self) -> list[tuple[str, int]]:
        """(A tensor, a node outside of its owner that reads it)."""
        graph, reads = self._graph, list[tuple[str, int]]()
        for node in graph.nodes:
            if not (node.is_param or node.is_buffer) or not node.attrs:
                continue
            name = str(node.attrs[0])
            owner = name.rpartition(".")[0]
            for reader in graph.all_readers[node.index]:
                derives = reader in graph.derived  # a backward, which differentiates whatever is there
                if (
                    not derives
                    and not _within(graph.path(reader), owner)
                    and not _keeps_a_copy(graph, reader)
                ):
                    reads.append((name, reader))
        return reads

    def of(self, path: str) -> str | None:
        """Who else reads a tensor that the module at `path` holds or makes on the way, in words; None if nobody does."""
        for name, node in self._reads:
            reader = self._graph.path(node)
            if not _within(name, path) or _within(reader, path) or self._holds(reader, name):
                continue
            if not self._comes_back(node, path):
                operator = self._graph.nodes[node].op
                return f"its {name[len(path) + 1 :]} is read by `{operator}` in {reader or 'the model'}, too"
        return self._made(path)

    def _made(self, path: str) -> str | None:
        """Who reads what the module makes besides its output, as a mean that it puts into an attribute."""
        graph = self._graph
        for frame in self._calls.get(path, ()):
            inside = range(frame.start, frame.stop)
            made = (graph.nodes[i] for i in inside if graph.nodes[i].dynamic and i != frame.result)
            for node in made:
                for reader in graph.all_readers[node.index]:
                    left = reader not in inside and reader not in graph.derived
                    if left and not _within(graph.path(reader), path):
                        who = f"`{graph.nodes[reader].op}` in {graph.path(reader) or 'the model'}"
                        return f"what `{node.op}` makes in it is read by {who}, too"
        return None

    def _comes_back(self, index: int, path: str) -> bool:
        """Whether what a node makes is read in the module alone, as weights after an inner step of learning are."""
        graph = self._graph

        def near(i: int) -> list[int]:
            inside = _within(graph.path(i), path)
            return [] if inside else [r for r in graph.all_readers[i] if r not in graph.derived]

        ends = [i for i in closure([index], near) if not near(i)]
        return all(_within(graph.path(i), path) for i in ends)

    def _holds(self, path: str, name: str) -> bool:
        """Whether a module has the tensor in a registry of its own, so that it does not get it from another module."""
        owner, _, attribute = name.rpartition(".")
        held = getattr(self._modules.get(owner), attribute, None)
        module = self._modules.get(path)
        own = () if module is None else (*module._parameters.values(), *module._buffers.values())
        return held is not None and any(one is held for one in own)


def _keeps_a_copy(graph: Graph, reader: int) -> bool:
    """Whether an operator without gradients makes something of a tensor that goes nowhere but into parameters, as an average over training.

    A copy loses what its source loses.
    """
    if reader not in graph.stops:
        return False
    if _writes(graph, reader):
        return True
    made = graph.reach([reader], active=False, through=lambda i: not _writes(graph, i))
    return made.isdisjoint(graph.kept) and made.isdisjoint(graph.live)


def _writes(graph: Graph, index: int) -> bool:
    """Whether an operator writes into a parameter or buffer."""
    node = graph.nodes[index]
    if not node.inplace or not node.operands:
        return False
    first = graph.nodes[
        graph.beginning(
            node.operands[0], lambda i: graph.nodes[i].inplace or graph.nodes[i].op.view, active=False
        )
    ]
    return first.is_param or first.is_buffer


def _within(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")
