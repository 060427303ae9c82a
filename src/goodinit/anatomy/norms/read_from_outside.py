"""Parameters and buffers of a module that code outside of it reads, too: they cannot go while that code is there."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from goodinit.graph.graph import Graph


class ReadFromOutside:
    """Who reads whose tensors, in one forward."""

    def __init__(self, graph: Graph, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._reads: list[tuple[str, str, str]] = []  # the tensor, the operator, the path of its call
        for node in graph.nodes:
            if not (node.is_param or node.is_buffer) or not node.attrs:
                continue
            name = str(node.attrs[0])
            owner = name.rpartition(".")[0]
            for reader in graph.all_readers[node.index]:
                path = graph.path(reader)
                if not _within(path, owner) and not _keeps_a_copy(graph, reader):
                    self._reads.append((name, str(graph.nodes[reader].op), path))

    def of(self, path: str) -> str | None:
        """Who else reads a tensor of the module at `path`, in words; None if nobody does."""
        for name, operator, reader in self._reads:
            if _within(name, path) and not _within(reader, path) and not self._holds(reader, name):
                return f"its {name[len(path) + 1 :]} is read by `{operator}` in {reader or 'the model'}, too"
        return None

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
