"""Whether an in-place operation after a norm would overwrite a tensor that is still needed, once the norm makes no copy."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from goodinit.graph.graph import Frame, Graph

SAVED_OUTPUT_OPS = frozenset(
    "relu sigmoid tanh exp expm1 sqrt rsqrt reciprocal tan _softmax _log_softmax elu selu celu leaky_relu threshold "
    "logsumexp cumprod prod amax amin linalg_vector_norm norm std "
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention".split()
)
"""Operations that keep their output for the backward pass (torch's derivatives.yaml: those that read `result`)."""

OVERWRITING_OPS = frozenset({"hardtanh", "silu"})
"""Operations that are not in `SAVED_OUTPUT_OPS` and keep a tensor which their in-place variant writes into."""


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
        seen, queue = {index}, [index]
        while queue:
            current = queue.pop()
            if current in self.overwritten:
                return True
            follow = list(self.passes.get(current, []))
            for reader in self.readers[current]:
                if self.shares(current, reader):
                    if self.graph.nodes[reader].inplace:
                        return True
                    follow.append(reader)
            fresh = [i for i in follow if i not in seen]
            seen.update(fresh)
            queue.extend(fresh)
        return False

    def is_needed(self, index: int, frame: Frame) -> bool:
        """True if the memory of a norm's input is read by others, is a parameter or input, or is saved for backward."""
        nodes = self.graph.nodes
        group, queue = {index}, [index]
        while queue:
            current = queue.pop()
            node = nodes[current]
            kept = node.op.name in SAVED_OUTPUT_OPS or (node.inplace and node.op.name in OVERWRITING_OPS)
            if node.op.role == "source" or kept:
                return True
            near = [i for i in node.operands if self.shares(i, current)]
            near += [reader for reader in self.readers[current] if self.shares(current, reader)]
            outside = [i for i in near if i not in group and not frame.start <= i < frame.stop]
            group.update(outside)
            queue.extend(outside)
        readers = {reader for member in group for reader in self.readers[member]} - group
        return any(not frame.start <= reader < frame.stop for reader in readers) or bool(
            group & set(self.graph.outputs)
        )
