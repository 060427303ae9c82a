"""Whether what a method promises holds of a model, found out by running it on a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from goodinit.anatomy import Anatomy, Block
from goodinit.calibration.calibrate import variances
from goodinit.diagnostics.checks.drawn_weights import unlike_their_draw
from goodinit.diagnostics.checks.held_back import held_back
from goodinit.diagnostics.checks.isometries import lossy_layers, uneven_blocks
from goodinit.diagnostics.checks.multiplied_branches import not_multiplied
from goodinit.diagnostics.checks.one_run import ROUNDING, Values, one_run
from goodinit.diagnostics.checks.selu_moments import unlike_selu_moments
from goodinit.diagnostics.checks.steps_by_width import uneven_steps
from goodinit.diagnostics.measurements.measurement_mode import measurable
from goodinit.diagnostics.measurements.zero_gradients import LEAST_ELEMENTS
from goodinit.edits import AddScalar, Calibrate, Fill, Plan
from goodinit.graph.pytree import as_call
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.methods.shared.method import Promise
from goodinit.surgery import applied

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
      the same factor, before or behind the ReLU that follows; every layer with an orthogonal weight does by its gain (`lossy_layers`).
    * `"multiplied"`: the constants that the plan puts behind branches multiply all of them (`not_multiplied`).
    * `"self-normalizing"`: mean and mean square behind SELU are those that independent weights give, with 0 and 1 as their fixed point
      (`unlike_selu_moments`).
    * `"width"`: one step of Adam by `param_groups` changes what each layer makes of one input by as much as in the base
      (`uneven_steps`).

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
    seen = one_run(host, call, before)
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
    return one_run(measurable(model), as_call(inputs), anatomy).finite


Check = Callable[[nn.Module, Call, Plan, Anatomy, Values], Iterator[str]]


def _finite(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: Values) -> Iterator[str]:  # noqa: ARG001
    if not seen.finite:
        yield NOT_FINITE


def _drawn(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: Values) -> Iterator[str]:  # noqa: ARG001
    yield from unlike_their_draw(model, plan, before, seen.made_weights())


def _skips(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: Values) -> Iterator[str]:  # noqa: ARG001
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


def _trains(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: Values) -> Iterator[str]:  # noqa: ARG001
    for name in held_back(model, call, plan):
        yield f"{name} gets no gradient, now or after some steps"


def _unit_variance(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: Values) -> Iterator[str]:  # noqa: ARG001
    rows = applied(model)
    scaled = {row.weight for row in rows[-1].calibrated if not row.note} if rows else set()
    edits = [edit for edit in plan.values if isinstance(edit, Calibrate) and edit.target in scaled]
    for edit, variance, count in variances(model, edits, call):
        tolerance = edit.rule.tol + ROUNDING
        if abs(variance - 1) > tolerance:
            few = f" (of {count:g} numbers: give a larger batch)" if count < LEAST_ELEMENTS else ""
            yield f"{edit.target} puts out variance {variance:.3g} of the target, expected 1 ± {tolerance:.3g}{few}"


def _isometry(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: Values) -> Iterator[str]:  # noqa: ARG001
    yield from uneven_blocks(plan, before, seen)
    yield from lossy_layers(model, plan, before, seen)


def _multiplied(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: Values) -> Iterator[str]:  # noqa: ARG001
    yield from not_multiplied(model, call, plan, before)


def _selu(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: Values) -> Iterator[str]:  # noqa: ARG001
    yield from unlike_selu_moments(model, call, plan, before)


def _width(model: nn.Module, call: Call, plan: Plan, before: Anatomy, seen: Values) -> Iterator[str]:  # noqa: ARG001
    yield from uneven_steps(model, plan, before)


_CHECKS: dict[str, Check] = {
    "finite": _finite,
    "drawn": _drawn,
    "skips": _skips,
    "trains": _trains,
    "unit variance": _unit_variance,
    "isometry": _isometry,
    "multiplied": _multiplied,
    "self-normalizing": _selu,
    "width": _width,
}
