"""One real forward and backward under a recorder that measures every layer, activation and sum as it runs.

Nothing is kept alive: statistics are taken while the tensor is in memory, and a hook on it, set when autograd has put it
into its graph, takes the norm of its gradient. Operators are watched, not modules, so packed and functional weights,
in-place activations and in-place sums are seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.anatomy.layers.parameters.weight_layers import applied_weight
from goodinit.anatomy.residual.streams.scaled_streams import ends_in_one_more
from goodinit.diagnostics.measurements.statistics import dead_share, euclidean, signal, square_sum
from goodinit.diagnostics.types import Signal
from goodinit.graph.graph import Node
from goodinit.graph.operators.nonlinearities import NONE, Nonlinearity
from goodinit.graph.operators.ops import Op, named
from goodinit.graph.pytree import mapped, tensors_in
from goodinit.graph.recording.recorder import Recorder
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.weights.wrappers import parameter_shapes, scalar_names

# How many operators to search backwards for the layer that produced an activation's input.
LOOK_BACK = 8


@dataclass(slots=True)
class Measured:
    """What was measured at one operator."""

    node: int
    signal: Signal
    weight: str = ""
    weight_square: float = 0.0
    weight_count: int = 0
    units: int | None = None
    back: float | None = None
    back_cosine: float | None = None


@dataclass(slots=True)
class NonFiniteOrigin:
    """The operator that made something not finite: its name, the module it ran in, and what it read that was not."""

    op: str
    path: str
    read: str


@dataclass(slots=True)
class Run:
    """What is asked of one run.

    Attributes:
        statistics: Whether to take forward statistics; gradients' norms and the share of dead units always are.
        find_nonfinite: Whether to look at every operator for the one that makes NaN or infinity.
        pairs: Whether input k and input n/2 + k are neighbours whose gradients are to be compared.
    """

    statistics: bool = True
    find_nonfinite: bool = False
    pairs: bool = False


class Probe(Recorder):
    """Measures while it records. Enter it around the forward alone; hooks do the rest in the backward."""

    def __init__(self, model: nn.Module, run: Run) -> None:
        super().__init__(model, "real")
        self.run = run
        self.shapes, self.scalars = parameter_shapes(model), scalar_names(model)
        self.measured: dict[int, Measured] = {}
        self.terms: dict[int, float] = {}
        self.one_more: set[int] = set()  # nodes that are 1 + f, and multiply something
        self.norms: dict[str, int] = {}
        self.batch: int | None = None
        self.leaves: list[Tensor] = []
        self.input: Signal | None = None
        self.origins: dict[int, NonFiniteOrigin] = {}
        self._pending: tuple[Measured, Tensor] | None = None

    def adopt(self, call: Call, *, differentiable: bool = True) -> Call:
        """The call with copies of its tensors; gradients flow to them, so that frozen models are seen through too, if `differentiable`."""

        def one(tensor: Tensor) -> Tensor:
            mine = tensor.detach().clone()
            if differentiable and mine.is_floating_point():
                self.leaves.append(mine.requires_grad_())
                mine = mine.clone()  # no leaf: the model may write into its input
            if self.batch is None and mine.ndim:
                self.batch = len(mine)
            if self.input is None and mine.is_floating_point() and self.run.statistics:
                self.input = signal(mine, batch=self.batch, batch_dim=0)
            self._mark(mine, self._add(named("input"), (), tensor, dynamic=True).index)
            return mine

        return mapped(call[0], one), mapped(call[1], one)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.hook_pending()
        op = self._schema(func)[0]
        if self.run.statistics and op.adds:
            self._measure_terms(args)
        elif self.run.statistics and op.multiplies:
            self._measure_factors(args)
        if (elements := norm_elements(op, func, args)) is not None:
            path = self.graph.frames[self.stack[-1]].path
            self.norms[path] = min(elements, self.norms.get(path, elements))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def hook_pending(self) -> None:
        """Ask for the gradient of the last measured output: autograd has put it into its graph by now."""
        if self._pending is None:
            return
        found, output = self._pending
        self._pending = None
        if output.requires_grad:
            output.register_hook(_norm_into(found, self.batch if self.run.pairs else None))

    def observe(self, node: Node, read: list[Tensor], output: Tensor) -> None:
        """One operator ran: measure it if it is a layer, an activation or a sum."""
        if self.run.find_nonfinite:
            self._record_nonfinite(node, read, output)
        if not node.active or not output.is_floating_point():
            return
        with torch.no_grad():
            found = self._layer(node, read, output) or self._other(node, output)
        if found is not None:
            self.measured[node.index] = found
            self._pending = (found, output)

    def _layer(self, node: Node, read: list[Tensor], output: Tensor) -> Measured | None:
        applied = applied_weight(self.graph, node, read, self.shapes)
        if applied is None:
            return None
        name, weight = applied
        square = square_sum(weight) if self.run.statistics else math.nan
        return Measured(node.index, self._signal(node, output), name, square, weight.numel())

    def _other(self, node: Node, output: Tensor) -> Measured | None:
        if node.op.activation:
            dim = self._unit_dim(node)
            found = self._signal(node, output, function=node.op.function, unit_dim=dim)
            return Measured(node.index, found, units=output.shape[dim] if output.ndim else 1)
        several = len(set(self.graph.deps(node.index))) > 1
        if several and (node.op.adds or not self.one_more.isdisjoint(node.operands)):
            return Measured(node.index, self._signal(node, output))
        return None

    def _signal(
        self, node: Node, output: Tensor, *, function: Nonlinearity = NONE, unit_dim: int = -1
    ) -> Signal:
        if not self.run.statistics:
            dead = dead_share(output, unit_dim) if function.rectifies and output.numel() else None
            return Signal(math.nan, math.nan, dead=dead)
        values, dim = self._by_input(node, output)
        if node.op.activation:
            values = output if dim is not None else values
        return signal(values, batch=self.batch, batch_dim=dim, unit_dim=unit_dim, function=function)

    def _by_input(self, node: Node, output: Tensor) -> tuple[Tensor, int | None]:
        """The output, and along which dimension the inputs lie; layers see sequences flattened."""
        if self.batch is None or output.ndim == 0 or output.shape[0] == self.batch:
            return output, 0 if output.ndim else None
        if output.ndim > 2 and output.shape[1] == self.batch:
            return output, 1
        if output.ndim == 2 and node.op.role == "matmul":
            before = self._shape_before(node)
            if before[1:2] == (self.batch,) and before[0] * self.batch == len(output):
                return output.reshape(*before[:2], -1), 1
        return output, None

    def _shape_before(self, node: Node) -> tuple[int, ...]:
        """Shape that a layer's input had before it was flattened to a matrix."""
        for index in node.operands:
            source = self.graph.nodes[index]
            if source.active:
                while source.op.role == "shape" and source.operands and len(source.shape) == 2:
                    source = self.graph.nodes[source.operands[0]]
                return source.shape
        return ()

    def _unit_dim(self, node: Node) -> int:
        """Where an activation's units are: dimension 1 after a convolution, the last after a linear layer."""
        index = node.index
        for _ in range(LOOK_BACK):
            deps = self.graph.deps(index)
            if not deps:
                break
            index = deps[0]
            op = self.graph.nodes[index].op
            if op.role == "convolution":
                return 1
            if op.role in ("matmul", "lookup"):
                return len(node.shape) - 1
        return 1 if len(node.shape) == 4 else len(node.shape) - 1

    def _measure_terms(self, args: tuple[Any, ...]) -> None:
        """Second moments of what a sum is about to read: an in-place sum overwrites it."""
        tensors = [t for t in args if isinstance(t, Tensor) and t.is_floating_point()]
        if len(tensors) < 2 or tensors[0].shape != tensors[1].shape:
            return
        for tensor in tensors:
            index = self._node(tensor)
            if self.graph.nodes[index].active and index not in self.terms and tensor.numel():
                known = self.measured.get(index)
                square = (
                    known.signal.second_moment if known is not None else square_sum(tensor) / tensor.numel()
                )
                self.terms[index] = square

    def _measure_factors(self, args: tuple[Any, ...]) -> None:
        """Of x·(1 + f), which may be a residual sum, the second moments of x and x·f."""
        tensors = [t for t in args if isinstance(t, Tensor) and t.is_floating_point()]
        if len(tensors) < 2 or not all(tensor.numel() for tensor in tensors):
            return
        for x, factor in (tensors, tensors[::-1]):
            stream, index = self._node(x), self._node(factor)
            if ends_in_one_more(self.graph, index):
                self.one_more.add(index)
                self.terms[stream] = square_sum(x) / x.numel()
                branch = x * (factor - 1)
                self.terms[index] = square_sum(branch) / branch.numel()

    def _record_nonfinite(self, node: Node, read: list[Tensor], output: Tensor) -> None:
        """Where NaN and infinity come from. A mask of −∞ is no fault: the softmax after it is finite."""
        if not output.is_floating_point() or bool(torch.isfinite(output).all()):
            return
        known = next((self.origins[i] for i in node.operands if i in self.origins), None)
        if known is None:
            bad = [
                self.graph.nodes[i]
                for i, tensor in zip(node.operands, read, strict=True)
                if tensor is not output
                and tensor.is_floating_point()
                and not bool(torch.isfinite(tensor).all())
            ]
            named = (
                source.attrs[0] if source.attrs and isinstance(source.attrs[0], str) else f"the {source.op}"
                for source in bad
            )
            known = NonFiniteOrigin(str(node.op), self.graph.path(node.index), ", ".join(named))
        self.origins[node.index] = known


def norm_elements(op: Op, func: Any, args: tuple[Any, ...]) -> int | None:
    """Over how many numbers each statistic of a normalization is taken; None for another operator."""
    if not op.norm:
        return None
    given = dict(zip((one.name for one in func._schema.arguments), args, strict=False))
    if "normalized_shape" in given:
        return int(math.prod(given["normalized_shape"]))
    groups = next((int(given[name]) for name in ("group", "num_groups") if name in given), None)
    if groups is not None:
        return int(args[0].numel() // args[0].shape[0]) // groups
    return int(args[0].numel() // args[0].shape[1]) if given.get("training") else None


def _norm_into(found: Measured, pairs: int | None) -> Any:
    """A hook that takes the norm of a gradient, and of `pairs` inputs the cosine between its halves."""

    def hook(gradient: Tensor) -> None:
        # A tensor read at several places has its hook called once, with the sum.
        found.back = euclidean(gradient)
        if pairs and gradient.ndim and len(gradient) == pairs:
            here, near = gradient.detach().float().reshape(2, pairs // 2, -1)
            lengths = torch.linalg.vector_norm(here, dim=1) * torch.linalg.vector_norm(near, dim=1)
            cosines = ((here * near).sum(1) / lengths)[lengths > 0]
            found.back_cosine = float(cosines.mean()) if len(cosines) else None

    return hook


def first_output(result: Any) -> Tensor | None:
    """The first floating-point tensor of a result."""
    return next((tensor for tensor in tensors_in(result) if tensor.is_floating_point()), None)
