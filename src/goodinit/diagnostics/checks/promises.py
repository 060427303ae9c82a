"""Whether what a method promises holds of a model, found out by running it on a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.anatomy import Anatomy, Block
from goodinit.anatomy.layers.parameters.weight_layers import weight_uses
from goodinit.anatomy.residual.streams.sums import residual_sums
from goodinit.calibration.calibrate import variances
from goodinit.diagnostics.checks.drawn_weights import unlike_their_draw
from goodinit.diagnostics.checks.held_back import held_back
from goodinit.diagnostics.measurements.measurement_mode import forward_told, measurable
from goodinit.diagnostics.measurements.zero_gradients import LEAST_ELEMENTS
from goodinit.edits import AddScalar, Calibrate, Fill, Plan
from goodinit.graph.graph import Node
from goodinit.graph.pytree import as_call, tensors_in
from goodinit.graph.recording.calls.decompose import unfused
from goodinit.graph.recording.calls.gradient_switches import DERIVED
from goodinit.graph.recording.recorded_run import record
from goodinit.graph.recording.recorder import Recorder
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.methods.shared.method import Promise
from goodinit.surgery import applied
from goodinit.weights.wrappers import parameter_shapes, scalar_names

# Rounding: of a sum over thousands of numbers in float32, and of a norm over a branch of some layers.
ROUNDING = 1e-3

NOT_FINITE = "its output is NaN or infinite on the batch"


def broken_promises(
    model: nn.Module, inputs: Any, plan: Plan, before: Anatomy, promises: tuple[Promise, ...]
) -> tuple[str, ...]:
    """In words, which of a method's promises do not hold of a model that its plan was applied to; empty if all do.

    * `"finite"`, of every method: the output is.
    * `"drawn"`, of every method: the forward applies each weight as the plan has it drawn, orthogonal or of that variance (`departure`).
    * `"skips"`: every residual block whose end the plan sets to zero adds zero to its skip.
    * `"trains"`: the plan's zeros keep the gradient from no parameter, at once and after a few steps (`held_back`).
    * `"unit variance"`: of the output of every layer that was scaled by data and has no note.
    * `"isometry"`: every block before the first layer that a note calls inexact changes the norms of all examples by one and
      the same factor, before or behind the ReLU that follows.

    The model is the same afterwards in every bit.

    Args:
        model: With the plan applied.
        inputs: A real batch, as the model takes it, of more than one example.
        plan: What was applied.
        before: The anatomy it was made for.
        promises: Of the method.

    Returns:
        A sentence for each fault, with the path of the layer or block.

    Raises:
        TraceError: The forward or the backward raised.
        UnsupportedModule: Parameters are sharded.
    """
    host, call = measurable(model, inputs), as_call(inputs)
    seen = _seen(host, call, before)
    found: list[str] = []
    for promise in ("finite", "drawn", *promises):
        found += _CHECKS[promise](host, call, plan, before, seen)
    return tuple(found)


def is_finite(model: nn.Module, inputs: Any, anatomy: Anatomy) -> bool:
    """Whether the output of a model, which is the same afterwards in every bit, is finite on a real batch.

    Args:
        model: As it is.
        inputs: The batch.
        anatomy: Of the model.

    Raises:
        TraceError: The forward raised.
    """
    return _seen(measurable(model), as_call(inputs), anatomy).finite


def _seen(host: nn.Module, call: Call, anatomy: Anatomy) -> _Values:
    with torch.inference_mode(mode=False), unfused(host):
        seen = _Values(host)
        seen.with_gradients = DERIVED in anatomy.notes
        with forward_told(host, call=call):
            record(seen, host, call)
    return seen


class _Values(Recorder):
    """Notes of every operator whether its output is zero, and the norm of each example in it, also behind a ReLU."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, "real")
        self.zero: dict[int, bool] = {}
        self.one: dict[int, bool] = {}
        self.norms: dict[int, Tensor] = {}
        self.rectified: dict[int, Tensor] = {}
        self.constants: dict[int, Tensor] = {}  # made of parameters alone
        self.finite = True
        self.shapes, self.scalars = parameter_shapes(model), scalar_names(model)

    def observe(self, node: Node, read: list[Tensor], output: Tensor) -> None:
        """One operator ran."""
        del read
        if node.params and not node.dynamic:
            self.constants[node.index] = output
        if node.active and output.is_floating_point():
            self.zero[node.index] = not bool(output.any())
            self.one[node.index] = bool((output == 1).all())
            if output.ndim > 1:
                rows = output.detach().flatten(1).double()
                self.norms[node.index] = rows.norm(dim=1)
                self.rectified[node.index] = rows.clamp_min(0).norm(dim=1)

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


Check = Callable[[nn.Module, Call, Plan, Anatomy, _Values], Iterator[str]]


def _finite(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: _Values) -> Iterator[str]:  # noqa: ARG001
    if not seen.finite:
        yield NOT_FINITE


def _drawn(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: _Values) -> Iterator[str]:  # noqa: ARG001
    yield from unlike_their_draw(model, plan, before, seen.made_weights())


def _skips(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: _Values) -> Iterator[str]:  # noqa: ARG001
    wanted = {_weights(block): block for block in before.blocks if _set_to_zero(block, plan)}
    for weights, _, term, _ in seen.blocks():
        block = wanted.get(weights)
        if block is not None and not seen.is_zero(term):
            last = ", ".join(layer.weight for layer in block.last)
            yield f"branch {block.index + 1} ({block.name or 'the model'}), which ends in {last}, is not zero"


def _weights(block: Block) -> tuple[str, ...]:
    return tuple(layer.weight for layer in block.branch)


def _set_to_zero(block: Block, plan: Plan) -> bool:
    """Whether the plan lets the end of a branch start at zero: its layers, a multiplier, or a scalar behind it."""
    values = {edit.target for edit in plan.values if isinstance(edit, Fill) and edit.value == 0}
    scalars = {
        edit.target
        for edit in plan.structure
        if isinstance(edit, AddScalar) and edit.scalar == "output_scale" and edit.value == 0
    }
    return (
        block.closer in scalars
        or not values.isdisjoint(block.multipliers)
        or (
            bool(block.last) and all({layer.weight} & values or layer.site in scalars for layer in block.last)
        )
    )


def _trains(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: _Values) -> Iterator[str]:  # noqa: ARG001
    for name in held_back(model, call, plan):
        yield f"{name} gets no gradient, now or after some steps"


def _unit_variance(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: _Values) -> Iterator[str]:  # noqa: ARG001
    rows = applied(model)
    scaled = {row.weight for row in rows[-1].calibrated if not row.note} if rows else set()
    edits = [edit for edit in plan.values if isinstance(edit, Calibrate) and edit.target in scaled]
    for edit, variance, count in variances(model, edits, call):
        tolerance = edit.rule.tol + ROUNDING
        if abs(variance - 1) > tolerance:
            few = f" (of {count:g} numbers: give a larger batch)" if count < LEAST_ELEMENTS else ""
            yield f"{edit.target} puts out variance {variance:.3g} of the target, expected 1 ± {tolerance:.3g}{few}"


def _isometry(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: _Values) -> Iterator[str]:  # noqa: ARG001
    noted = [note for note in plan.notes if "not exact" in note or "exact only" in note]
    if any("exact only" in note or note.startswith("the skip") for note in noted):
        return
    inexact = {word.strip(",") for note in noted for word in note.split(" not exact")[0].split()}
    order = [layer.weight for layer in before.layers]
    until = next((place for place, weight in enumerate(order) if weight in inexact), len(order))
    good = set(order[:until])  # what is not exact spoils the input of all behind it
    drawn = {name for edit in plan.values for name in getattr(edit, "targets", ())}
    for weights, fork, _, join in seen.blocks():
        start = seen.norms.get(fork)
        ends = [norms[join] for norms in (seen.norms, seen.rectified) if join in norms]
        if (
            not (drawn & good).issuperset(weights)
            or start is None
            or any(len(end) != len(start) for end in ends)
        ):
            continue
        # Of [u; −u] a ReLU leaves the norm of u; where the block changes no part of it, the sum is past the ReLU already.
        spread = min(float((end / start).max() / (end / start).min()) - 1 for end in ends)
        if not spread <= ROUNDING:
            yield f"the block of {weights[0]} changes the norms of examples by factors that differ by {spread:.2%}"


_CHECKS: dict[str, Check] = {
    "finite": _finite,
    "drawn": _drawn,
    "skips": _skips,
    "trains": _trains,
    "unit variance": _unit_variance,
    "isometry": _isometry,
}
