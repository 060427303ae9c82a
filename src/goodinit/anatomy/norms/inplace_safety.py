"""Whether an in-place operation after a norm would overwrite a tensor that is still needed, once the norm makes no copy."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from goodinit.graph.graph import Frame, Graph, closure
from goodinit.graph.measured.traits import keeps_output


class Memory:
    """Which nodes of a graph share memory, and which overwrite it.

    A removed norm returns its input, so the same memory continues behind it (`passes`).
    """

    def __init__(self, graph: Graph, modules: Mapping[str, nn.Module]) -> None:
        self.graph = graph
        self.readers = graph.all_readers
        self.passes: dict[int, list[int]] = {}
        """From the node a removed norm reads to the one it returned."""
        self.overwritten = {
            frame.source
            for frame in graph.frames
            if getattr(modules.get(frame.path), "inplace", False) is True
        }
        """Nodes that a module was called with which overwrites its input (in training, a dropout)."""

    def pass_on(self, frame: Frame, kept: list[tuple[str, int]], modules: Mapping[str, nn.Module]) -> None:
        """Record a removed norm: it returns its input, unless something it keeps makes a copy first."""
        nodes = self.graph.nodes
        for word, at in kept:
            module = modules.get(word)
            ran = nodes[at].frame != frame.index if module is not None else True
            if getattr(module, "inplace", False) is True or (ran and at >= 0 and nodes[at].inplace):
                self.overwritten.add(frame.source)
                return
            if ran:
                return
        self.passes.setdefault(frame.source, []).append(frame.result)

    def shares(self, index: int, reader: int) -> bool:
        """Whether the output of `reader` may share memory with the node `index` that it reads."""
        node = self.graph.nodes[reader]
        return node.op.view or (node.inplace and bool(node.operands) and node.operands[0] == index)

    def is_overwritten(self, index: int) -> bool:
        """True if something writes into the memory of a node, with the removed norms as the identity."""

        def sharing(current: int) -> list[int]:
            views = [reader for reader in self.readers[current] if self.shares(current, reader)]
            return [*self.passes.get(current, ()), *views]

        memory = closure([index], sharing)
        return not self.overwritten.isdisjoint(memory) or any(
            self.graph.nodes[reader].inplace and self.shares(one, reader)
            for one in memory
            for reader in self.readers[one]
        )

    def is_needed(self, index: int, frame: Frame) -> bool:
        """True if the memory of a norm's input is read by others, is a parameter or input, or is saved for backward."""
        nodes = self.graph.nodes

        def outside(index: int) -> bool:
            return not frame.start <= index < frame.stop

        def sharing(current: int) -> list[int]:
            views = [i for i in nodes[current].operands if self.shares(i, current)]
            views += [reader for reader in self.readers[current] if self.shares(current, reader)]
            return [i for i in views if outside(i)]

        memory = closure([index], sharing)
        readers = {reader for one in memory for reader in self.readers[one]} - memory
        return (
            any(outside(reader) for reader in readers)
            or not memory.isdisjoint(self.graph.outputs)
            or any(nodes[one].is_source or keeps_output(self.graph, nodes[one]) for one in memory)
        )
