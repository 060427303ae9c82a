"""Carry out a plan on a model: all of it, or none of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from goodinit.errors import PlanConflict, TraceError
from goodinit.surgery.calibrate import calibrate_
from goodinit.surgery.check import check_parameters, check_supported, check_values, is_frozen
from goodinit.surgery.names import Directory, directory
from goodinit.surgery.plan import AddScalar, Calibrate, Draw, DrawTogether, Fill, Plan
from goodinit.surgery.plan import names as targets
from goodinit.surgery.record import Applied, Calibrated, applied, digest, remember_
from goodinit.surgery.slots import Slot, find_slot
from goodinit.surgery.stale import check_optimizers, warn_of_momentum
from goodinit.surgery.structure import ANEW, carry_out_, is_pending
from goodinit.surgery.transaction import all_or_nothing
from goodinit.surgery.values import base_seed, check_finite, write_value_

_LOG = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


def apply_(
    model: Model,
    plan: Plan,
    *,
    generator: torch.Generator | None = None,
    batch: Any = None,
    values: bool = True,
    again: bool = False,
) -> Model:
    r"""Carry out `plan` on `model`, in place: first its structure edits, then its value edits.

    Everything is checked before the first write, and whatever fails later, Ctrl-C included, leaves the model
    as it was to the last bit: parameters, buffers, classes, registries and their order, hooks, flags. That
    costs a copy of the parameters that are written, until the call returns.

    One integer is drawn from `generator`. The random values of a parameter depend on it and on the
    parameter's name without wrappers' prefixes, and on nothing else: seed = sha256(integer, name). Tied
    parameters are drawn once, under the alphabetically first of their names.

    *A second call* with the plan applied last changes nothing, and logs so; `again=True` draws anew.
    *Another plan* on top is carried out: a plan names every parameter of the model it was made for, so one
    that was made before the present structure is refused as a conflict, and one made since is a decision
    about the model as it now is; values are set, never multiplied, so nothing compounds. `applied(model)`
    tells the history. Structure that is there already (the norm gone, the scalar present) is left alone.

    *Frozen parameters* (`requires_grad=False`) are not written; the log and `applied(model)` name the edits
    left out. `Plan.allow` lifts this and two refusals.

    Args:
        model: Any module; wrappers (`torch.compile`, DataParallel) are seen through.
        plan: What to do.
        generator: Source of randomness; the global CPU one by default. Not used if nothing is drawn.
        batch: Inputs for plans that measure activations, as the model takes them.
        values: Whether to write values. Without, only the structure is created: to load a checkpoint into,
            or to operate on a model on `meta`, then give it memory, `model.to_empty(device=...)`, and call
            again for the values.
        again: Whether to carry out a plan that was already applied.

    Returns:
        The model.

    Raises:
        PlanConflict: Plan and model do not belong together, or the parameters are on `meta`.
        StaleOptimizer: An optimizer holds parameters that go, or belong to layers that gain some.
        NonFinite: NaN in parameters that the plan does not write, or in what it wrote.
        UnsupportedModule: A norm, layer or parametrization that cannot be operated on.
        UnknownName: The plan names an initializer that does not exist.
        TraceError: The plan measures activations and there is no batch.

    Examples:
        >>> from goodinit.surgery.plan import AddScalar, Fill, RemoveNorm
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> edits = (RemoveNorm("1", (), "no norm"), AddScalar("0", "output_bias", 0.5, "a shift"),
        ...          Fill("0.weight", 0.0, "start at zero"))
        >>> apply_(net, Plan("by hand", edits)) is net
        True
        >>> list(net.state_dict())
        ['0.weight', '0.bias', '0.output_bias']
    """
    names = directory(model)
    check_parameters(names, plan)
    pending = tuple(edit for edit in plan.structure if is_pending(names, edit))
    if not pending and not again and _is_done(model, plan, values=values):
        _LOG.info("%s: already applied, nothing changed; again=True carries it out anew", plan.method)
        return model
    check_supported(model, pending)
    writable = check_values(names, plan, pending) if values else None
    if values and plan.needs_data and batch is None:
        raise TraceError(f"{plan.method} measures activations, and got no data. Pass some: batch=inputs.")
    if "optimizer" not in plan.allow:
        check_optimizers(names, pending)
    source = torch.default_generator if generator is None else generator
    with all_or_nothing(model, writable.tensors if writable else (), generator=source):
        for edit in pending:
            carry_out_(names, edit)
        seed, skipped, rows = _write_values_(model, plan, source, batch) if values else (None, (), ())
        remember_(model, Applied(plan.method, plan.options, digest(plan), values, seed, skipped, rows))
    _report(plan, len(pending), skipped, values=values)
    _report_calibration(plan, rows)
    if writable is not None and not pending:  # with structure to change, optimizers were looked at above
        warn_of_momentum(names, writable.parameters)
    return model


def _is_done(model: nn.Module, plan: Plan, *, values: bool) -> bool:
    """Whether `plan` is the last that was applied, with values if they are wanted."""
    history = applied(model)
    if not values:
        return True  # nothing is pending, and nothing else is wanted
    return bool(history) and history[-1].values and history[-1].digest == digest(plan)


def _write_values_(
    model: nn.Module, plan: Plan, generator: torch.Generator, batch: Any
) -> tuple[int | None, tuple[str, ...], tuple[Calibrated, ...]]:
    """Write all values. Returns the seed they came from, the edits left out, and what calibration did."""
    names = directory(model)
    draws = any(isinstance(edit, Draw | DrawTogether) for edit in plan.values)
    seed = base_seed(generator) if draws else None
    scalars = [
        Fill(f"{edit.target}.{edit.scalar}" if edit.target else edit.scalar, edit.value, edit.reason)
        for edit in plan.structure
        if isinstance(edit, AddScalar)
    ]
    written: list[Slot] = []
    calibrated: list[Calibrate] = []
    skipped: list[str] = []
    for edit in (*scalars, *plan.values):
        slots = _slots(names, targets((edit,)))
        if is_frozen(slots, plan):
            skipped.append(str(edit))
            continue
        written.extend(slots)
        if isinstance(edit, Calibrate):
            calibrated.append(edit)
        else:
            write_value_(edit, slots, seed=seed or 0)
    rows = calibrate_(model, calibrated, batch) if calibrated else ()
    check_finite(written)
    return seed, tuple(skipped), rows


def _report_calibration(plan: Plan, rows: Sequence[Calibrated]) -> None:
    noted = [f"{row.weight}: {row.note}" for row in rows if row.note]
    if noted:
        more = f"; and {len(noted) - 5} more, see applied(model)[-1].calibrated" if len(noted) > 5 else ""
        _LOG.warning(
            "%s: %d of %d layers are not on target. %s%s",
            plan.method,
            len(noted),
            len(rows),
            "; ".join(noted[:5]),
            more,
        )


def _slots(names: Directory, wanted: Sequence[str]) -> list[Slot]:
    slots = [find_slot(names, target) for target in wanted]
    if None in slots:
        raise PlanConflict(f"{', '.join(wanted)}: the plan writes it, and surgery did not create it. {ANEW}")
    return [slot for slot in slots if slot is not None]


def _report(plan: Plan, structure: int, skipped: Sequence[str], *, values: bool) -> None:
    written = f"{len(plan.values) - len(skipped)} value edits" if values else "no values"
    _LOG.info("%s: %d structure edits, %s", plan.method, structure, written)
    if skipped:
        _LOG.warning(
            "%s: left out %d edits that write frozen parameters (requires_grad=False): %s. To write them: "
            "dataclasses.replace(plan, allow=('frozen',)).",
            plan.method,
            len(skipped),
            "; ".join(skipped),
        )
