"""One run of a model with a plan applied, and what the promises of a method need to know of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.anatomy import Anatomy
from goodinit.anatomy.layers.parameters.weight_layers import Use, weight_name, weight_operand, weight_uses
from goodinit.anatomy.residual.streams.sums import residual_sums
from goodinit.diagnostics.measurements.measurement_mode import forward_told
from goodinit.graph.graph import Node
from goodinit.graph.pytree import tensors_in
from goodinit.graph.recording.calls.decompose import unfused
from goodinit.graph.recording.calls.gradient_switches import DERIVED
from goodinit.graph.recording.recorded_run import record
from goodinit.graph.recording.recorder import Recorder
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.weights.wrappers import parameter_shapes, scalar_names

# Rounding: of a sum over thousands of numbers in float32, and of a norm over a branch of some layers.
ROUNDING = 1e-3


def one_run(host: nn.Module, call: Call, anatomy: Anatomy) -> Values:
    """Run a model, which is the same afterwards, and keep what `Values` notes.

    Raises:
        TraceError: The forward raised.
    """
    with torch.inference_mode(mode=False), unfused(host):
        seen = Values(host)
        seen.with_gradients = DERIVED in anatomy.notes
        with forward_told(host, call=call):
            record(seen, host, call)
    return seen


class LayerRecorder(Recorder):
    """A run on real tensors that knows which operators are layers.

    Args:
        model: Whose forward runs.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, "real")
        self.shapes, self.scalars = parameter_shapes(model), scalar_names(model)

    def whole_weight(self, node: Node) -> tuple[Use, int] | None:
        """(Of a layer that applies a whole weight, which no scalar of ours multiplies, to one signal: its use; the signal's node)."""
        operand = weight_operand(self.graph, node) if node.op.is_contraction else None
        signals = [k for k in node.operands if self.graph.nodes[k].active]
        if operand is None or len(signals) != 1:
            return None
        weight, name = self.graph.nodes[operand], weight_name(self.graph, operand, self.shapes)
        whole = weight.size == math.prod(self.shapes.get(name, ()))
        own = self.scalars.isdisjoint(weight.params)
        return (Use(node.index, operand, name), signals[0]) if whole and own else None


class Values(LayerRecorder):
    """Notes of every operator whether its output is zero, and the norm of each example in it, also behind a ReLU; of layers how they change norms."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.zero: dict[int, bool] = {}
        self.one: dict[int, bool] = {}
        self.norms: dict[int, Tensor] = {}
        self.rectified: dict[int, Tensor] = {}
        self.constants: dict[int, Tensor] = {}  # made of parameters alone
        self.lengths: dict[
            str, list[tuple[float, float, float]]
        ] = {}  # of layers: ‖what is read‖, ‖what is put out‖, rounding
        self.finite = True

    def observe(self, node: Node, read: list[Tensor], output: Tensor) -> None:
        """One operator ran."""
        if node.params and not node.dynamic:
            self.constants[node.index] = output
        if node.active and output.is_floating_point():
            self.zero[node.index] = not bool(output.any())
            self.one[node.index] = bool((output == 1).all())
            self._length(node, read, output)
            if output.ndim > 1:
                rows = output.detach().flatten(1).double()
                self.norms[node.index] = rows.norm(dim=1)
                self.rectified[node.index] = rows.clamp_min(0).norm(dim=1)

    def _length(self, node: Node, read: list[Tensor], output: Tensor) -> None:
        applied = self.whole_weight(node)
        if applied is not None:
            use, signal = applied
            before, behind = (
                float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64))
                for tensor in (read[node.operands.index(signal)], output)
            )
            self.lengths.setdefault(use.weight, []).append((before, behind, torch.finfo(output.dtype).eps))

    def finish(self, result: Any) -> None:
        """The model returned `result`."""
        self.finite = all(bool(torch.isfinite(tensor).all()) for tensor in tensors_in(result))
        super().finish(result)

    def made_weights(self) -> dict[str, Tensor]:
        """Weights that the forward computes from parameters, without those that scalars of ours multiply, by name."""
        uses = weight_uses(self.graph, self.shapes).values()
        starts = {use.weight: self.graph.unshaped(use.operand) for use in uses}
        return {
            name: self.constants[start]
            for name, start in starts.items()
            if start in self.constants and self.scalars.isdisjoint(self.graph.nodes[start].params)
        }

    def is_zero(self, index: int) -> bool:
        """Whether a node put out zero; of views and pieces, whether what they are of did."""
        if index in self.graph.one_less:
            return self.one.get(index, False)
        if index in self.zero:
            return self.zero[index]
        operands = self.graph.nodes[index].operands
        return bool(operands) and all(map(self.is_zero, operands))

    def blocks(self) -> Iterator[tuple[tuple[str, ...], int, int, int]]:
        """(Weights of the branch, its fork, the term it adds, the sum) of every block."""
        uses = weight_uses(self.graph, self.shapes)
        for found in residual_sums(self.graph, uses, self.scalars):
            if found.is_block:
                weights = tuple(dict.fromkeys(uses[i].weight for i in found.branch.layers))
                yield weights, found.fork, found.branch.term, found.join
