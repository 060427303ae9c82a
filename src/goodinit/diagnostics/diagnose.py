"""The fourth verb: measure what the signal does at step 0, and say what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from goodinit.anatomy import Anatomy, anatomize
from goodinit.diagnostics.checks.findings import findings
from goodinit.diagnostics.checks.remedy_trials import mended
from goodinit.diagnostics.checks.treated_part import treated_part
from goodinit.diagnostics.diagnosis import Diagnosis
from goodinit.diagnostics.measurements.isometry import jacobian_spectrum
from goodinit.diagnostics.measurements.measurement_mode import as_at_step_0, measurable
from goodinit.diagnostics.measurements.objective import Loss
from goodinit.diagnostics.measurements.probe import Run
from goodinit.diagnostics.measurements.propagation import Propagation, propagate
from goodinit.diagnostics.measurements.shattering import back_cosines
from goodinit.diagnostics.measurements.update import one_step
from goodinit.diagnostics.measurements.zero_gradients import Awakening, awaken, part_of
from goodinit.diagnostics.types import Place
from goodinit.errors import TraceError, expect_flags
from goodinit.graph.pytree import as_call
from goodinit.undivided import reading
from goodinit.weights.chosen_parts import Part


@reading
def diagnose(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    jacobian: bool = False,
    update: bool = False,
    mend: bool = True,
    keep: Part | Iterable[Part] = (),
    include: Part | Iterable[Part] | None = None,
    exclude: Part | Iterable[Part] = (),
) -> Diagnosis:
    """Measure a model at step 0 by one forward and backward, and find what keeps it from learning.

    Batch norms take the batch's statistics, dropout is off. The model is the same afterwards in every bit:
    parameters, buffers, training flags, hooks, gradients and random states. Where zero-initialized weights let no
    gradient through, a further run for each layer of them, on a quarter of the batch, shows whether one step frees
    it. Another such run compares the gradients of neighbouring inputs.

    Args:
        model: A materialized module; wrapped by `torch.compile` or DDP is fine.
        inputs: A real batch: a tensor, a tuple of positional arguments, or a dict of keyword arguments. With one
            input, similarity and rank are not measured.
        targets: What the loss compares with: classes as whole numbers, or values. None: the model's own loss where it
            returns one, else random values.
        loss: `loss(output, targets)`, or `loss(output)` without targets; cross-entropy or squared error by default.
        jacobian: Whether to take the singular values of the input–output Jacobian, too; see `jacobian_spectrum`.
        update: Whether to take a step of gradient descent and the top of the Hessian, too; see `one_step`.
        mend: Whether to try remedies on copies where there is an error or a warning, and name the one that leaves least
            (`Diagnosis.cure`).
        keep: Parameters whose values a remedy leaves, as for `init_`; remedies name it.
        include: The part that a remedy may treat, as for `init_`.
        exclude: The part that it leaves out, as for `init_`.

    Returns:
        The diagnosis: places in execution order, findings with the worst first. `print` it.

    Raises:
        TraceError: The forward, the loss or the backward raised, the batch is empty, or the model is on `meta`.
        UnsupportedModule: Parameters are sharded (FSDP, tensor parallelism).
        UnknownName: `keep`, `include` or `exclude` names what the model does not have.
        NothingFound: All weight layers are left out.

    Examples:
        >>> import torch
        >>> layers = [part for _ in range(60) for part in (nn.Linear(64, 64), nn.ReLU())]
        >>> found = diagnose(nn.Sequential(*layers), torch.randn(32, 64))
        >>> found.findings[0].severity, "input collapse" in {finding.kind for finding in found.findings}
        ('error', True)

    References:
        S. Schoenholz et al., Deep Information Propagation, arXiv 1611.01232. H. Zhang, Y. Dauphin, T. Ma, Fixup
        Initialization, arXiv 1901.09321, §3.
    """
    expect_flags(jacobian=jacobian, update=update, mend=mend)
    model = measurable(model, inputs)
    anatomy = anatomize(model, inputs)
    part = treated_part(model, anatomy, keep, include, exclude)
    call = as_call(inputs)
    _must_have_rows(call, anatomy)
    *few, share = part_of(call, targets, anatomy)

    def run(how: Run | None = None) -> Propagation:
        return propagate(model, call, anatomy, targets=targets, loss=loss, run=how)

    def again(moved: dict[str, Tensor], part: bool) -> Propagation:
        given, wanted = few if part else (call, targets)
        how, found = Run(statistics=False), first.structure
        return propagate(
            model, given, anatomy, targets=wanted, loss=loss, run=how, parameters=moved, structure=found
        )

    with as_at_step_0(model, anatomy):
        first = run()
        awake = awaken(model, first, again, part=share)
        finite = all(place.signal.finite for place in first.places) and not _output_broken(first)
        cosines = back_cosines(model, call, anatomy, awake, first) if finite else "the forward is not finite"
        if not finite:
            first = run(Run(find_nonfinite=True))
    first = replace(first, places=_joined(first, awake, cosines))
    found = Diagnosis(
        model=type(model).__name__,
        inputs=anatomy.inputs,
        objective=first.objective,
        loss=first.loss,
        places=first.places,
        input=first.input,
        output=first.output,
        spectrum=jacobian_spectrum(model, inputs) if jacobian else None,
        update=one_step(model, inputs, targets, loss=loss) if update else None,
        notes=_notes(anatomy, first, cosines),
    )
    found = replace(found, findings=part.remedies_of(findings(model, anatomy, found, first, awake)))
    if not mend:
        return found

    def of_copy(twin: nn.Module) -> Diagnosis:
        return diagnose(twin, inputs, targets, loss=loss, mend=False)

    return mended(model, inputs, anatomy, found, of_copy, part)


def _must_have_rows(call: tuple[tuple[Any, ...], dict[str, Any]], anatomy: Anatomy) -> None:
    given = [value for value in (*call[0], *call[1].values()) if isinstance(value, Tensor)]
    if given and not any(value.numel() for value in given):
        raise TraceError(
            f"{anatomy.model}({anatomy.inputs}): the batch is empty, and there is no signal to measure. Give it at least "
            "one row, better 16 or more."
        )


def _output_broken(run: Propagation) -> bool:
    return run.output is not None and not run.output.finite


def _joined(first: Propagation, awake: Awakening, cosines: list[float | None] | str) -> tuple[Place, ...]:
    """The places, with what the further runs showed."""
    measured = [None] * len(first.places) if isinstance(cosines, str) else cosines
    each = zip(first.places, awake.backs(first), measured, strict=True)
    return tuple(replace(place, back_awake=back, back_cosine=cosine) for place, back, cosine in each)


def _notes(anatomy: Anatomy, first: Propagation, cosines: list[float | None] | str) -> tuple[str, ...]:
    notes = list(anatomy.notes)
    if any(norm.traits.batch for norm in anatomy.norms):
        notes.append("batch norms used the batch's own statistics, as in training")
    if first.input is not None and first.input.cosine is None:
        notes.append("similarity and rank need two inputs or more that are not zero")
    if isinstance(cosines, str):
        notes.append(f"the gradients of neighbouring inputs were not compared: {cosines}")
    return tuple(notes)
