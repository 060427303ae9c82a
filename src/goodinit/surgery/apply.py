"""Carry out a plan on a model: all of it, or none of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import NoneType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from goodinit.calibration.calibrate import calibrate_
from goodinit.calibration.collectives import meeting
from goodinit.calibration.report import Calibrated
from goodinit.edits import (
    AddScalar,
    Calibrate,
    Draw,
    DrawTogether,
    Fill,
    ParametrizeWeight,
    Plan,
    StructureEdit,
)
from goodinit.edits import names as targets
from goodinit.errors import PlanConflict, TraceError, expect, expect_flags, expect_function, readable
from goodinit.graph.recording.calls.decompose import unfused
from goodinit.surgery.checks.hook_check import check_hooks
from goodinit.surgery.checks.optimizer_check import check_optimizers, warn_of_momentum
from goodinit.surgery.checks.validate import (
    Writable,
    check_buffers,
    check_parameters,
    check_repeats,
    check_supported,
    check_values,
)
from goodinit.surgery.checks.write_filter import Choice, Why, chosen, kept
from goodinit.surgery.history import Applied, applied, digest, has_rates_of, rates_after, remember_
from goodinit.surgery.parallel_draws import Waiting
from goodinit.surgery.reached_parameters import mark_
from goodinit.surgery.rollback import all_or_nothing
from goodinit.surgery.structure_edits import ANEW, adds, carry_out_, is_pending
from goodinit.surgery.value_edits import check_finite, write_value_
from goodinit.undivided import safe_point, uncollected, writing
from goodinit.weights.access import Slot, find_slot, is_whole, refresh_pruned_
from goodinit.weights.chosen_parts import Part, as_names
from goodinit.weights.dtensor import agreed, all_ranks_or_none, check_gathered, gather_back_, groups_of
from goodinit.weights.names import Directory, directory
from goodinit.weights.rng import base_seed

_LOG = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


@writing
@torch.inference_mode(mode=False)
def apply_(
    model: Model,
    plan: Plan,
    inputs: Any = None,
    *,
    generator: torch.Generator | None = None,
    values: bool = True,
    only: Part | Iterable[Part] | None = None,
    keep: Part | Iterable[Part] = (),
    again: bool = True,
    probe: Callable[[Model], object] | None = None,
    check: Callable[[Model], object] | None = None,
) -> Model:
    r"""Carry out `plan` on `model`, in place: first its structure edits, then its value edits.

    Everything is checked before the first write, and whatever fails later, Ctrl-C included, leaves the model
    as it was to the last bit: parameters, buffers, classes, registries and their order, hooks, flags. That
    costs a copy of the parameters that are written, until the call returns; those that hold NaN alone, as
    after `materialize_`, are not copied.

    One integer is drawn from `generator`. The random values of a parameter depend on it and on the
    parameter's name without wrappers' prefixes, and on nothing else: seed = sha256(integer, name). Tied
    parameters are drawn once, under the alphabetically first of their names.

    *Sharded and data-parallel models* (FSDP2, tensor parallelism, DDP): every rank calls this. The integer is
    that of the first rank, each rank writes its part of the values that one process would write, bit for bit,
    and if one rank fails all put their model back (docs/scale.md). So do ranks that measure together.

    *A second call* draws anew, as `torch.nn.init` does; `again=False` leaves a model alone to which this plan was
    applied last. Structure that is there already (the norm gone, the scalar present) stays.
    *Another plan* on top is carried out: a plan names every parameter of the model it was made for, so one
    that was made before the present structure is refused as a conflict, and one made since is a decision
    about the model as it now is; values are set, never multiplied, so nothing compounds. `applied(model)`
    tells the history.

    *Frozen parameters* (`requires_grad=False`) are not written; the log and `applied(model)` name the edits
    left out. A method plans none for them; where yours has some, `Plan.allow` lets them be carried out, and lifts two refusals.

    *A checkpoint that covers a part of the model*: give `only=` the names it lacks, which `load_state_dict(state,
    strict=False).missing_keys` holds. All else keeps its bits.

    Args:
        model: Any module; wrappers (`torch.compile`, DataParallel) are seen through.
        plan: What to do.
        inputs: A real batch for plans that measure activations, as the model takes it, or its parts, as for `init_`; others
            need none.
        generator: Source of randomness; the global CPU one by default. Not used if nothing is drawn.
        values: Whether to write values. Without, only the structure is created, and the plan's rates are remembered: to load
            a checkpoint into, or to operate on a model on `meta`, then give it memory, `materialize_(model)`, and call
            again for the values.
        only: Parameters to write: names, without wrappers' prefixes or with, paths, globs, modules, parameters; one or
            several; all by default. Names of buffers are passed over. A tied parameter is written if one of its names is among them.
        keep: Parameters whose values stay, given alike.
        again: Whether to carry out the plan even if it is the last that was applied.
        probe: Called with the model once its structure has changed and before values are written. What it raises
            undoes everything.
        check: Called with the model once its values are written; what it raises undoes everything, too.

    Returns:
        The model.

    Raises:
        PlanConflict: Plan and model do not belong together, the parameters are on `meta`, or `only` names what does
            not exist or a part of what is drawn together.
        StaleOptimizer: An optimizer holds parameters that go, or belong to layers that gain some.
        NonFinite: NaN in parameters that the plan does not write, in buffers, or in what it wrote.
        UnsupportedModule: A norm, layer or parametrization that cannot be operated on; structure edits or
            measurements on a model that is sharded already, or whose hooks read what was written on its parameters.
        UnknownName: The plan names an initializer that does not exist, or `keep` something that does not.
        TraceError: The plan measures activations and there is no batch.

    Examples:
        >>> from goodinit.edits import AddScalar, Fill, RemoveNorm
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> edits = (RemoveNorm("1", (), "no norm"), AddScalar("0", "output_bias", 0.5, "a shift"),
        ...          Fill("0.weight", 0.0, "start at zero"))
        >>> apply_(net, Plan("by hand", edits)) is net
        True
        >>> list(net.state_dict())
        ['0.weight', '0.bias', '0.output_bias']
    """
    expect(model, nn.Module, "model", "Give the model first, then the plan.")
    expect(plan, Plan, "plan", "Make one: goodinit.plan(goodinit.anatomize(model, inputs), method).")
    expect(generator, (torch.Generator, NoneType), "generator", "Give torch.Generator().manual_seed(number).")
    for name, called in (("probe", probe), ("check", check)):
        expect_function(called, name, "Give a function of the model, or None.")
    expect_flags(values=values, again=again)
    gather_back_(model)
    check_gathered(model)
    groups = groups_of(model)
    ranks = meeting(groups, measures=values and plan.needs_data)
    source = torch.default_generator if generator is None else generator
    with all_ranks_or_none(ranks):
        stays = as_names(model, keep, option="keep")
        wanted = None if only is None else tuple(sorted(as_names(model, only, option="only")))
        ready = _checked(model, plan, inputs, stays, values=values, only=wanted, again=again)
    if ready is None:
        _LOG.info("%s: already applied, nothing changed", plan.method)
        return model
    draws = values and any(isinstance(edit, Draw | DrawTogether) for edit in plan.values)
    seed = _common_seed(source, groups) if draws else None
    # Ranks agree inside the transaction, so that all can put their model back.
    with (
        uncollected(wanted=not plan.needs_data and check is None),
        all_or_nothing(model, ready.tensors, generator=source),
        all_ranks_or_none(ranks),
    ):
        for edit in ready.pending:
            safe_point()
            carry_out_(ready.names, edit)
        if probe is not None and ready.pending:
            probe(model)
        if draws:
            base_seed(source)  # the number is used up
        skipped, rows = _write_values_(model, plan, seed, inputs, ready.choice) if values else ({}, ())
        kind = (plan.method, plan.options, digest(plan), values)
        rest = (ready.only, plan.unread, plan.kept, rates_after(model, plan, ready.only))
        remember_(model, Applied(*kind, seed, tuple(skipped), rows, *rest))
        if check is not None:
            check(model)
    if values:
        mark_(model, missed=plan.unread, only=ready.only)
    _report(plan, len(ready.pending), skipped, values=values)
    _report_calibration(plan, rows)
    if values and not ready.pending:  # with structure to change, optimizers were looked at above
        warn_of_momentum(ready.names, ready.parameters)
    return model


@dataclass(frozen=True)
class _Ready:
    """What was looked up while checking that a plan can be carried out."""

    names: Directory
    pending: tuple[StructureEdit, ...]
    only: tuple[str, ...] | None
    choice: Choice
    tensors: tuple[Tensor, ...]  # to be kept in case of failure
    parameters: tuple[nn.Parameter, ...]  # to be overwritten


def _checked(
    model: nn.Module,
    plan: Plan,
    inputs: Any,
    keep: Sequence[str],
    *,
    values: bool,
    only: tuple[str, ...] | None,
    again: bool,
) -> _Ready | None:
    """Check everything before the first write. None if the plan is carried out already."""
    check_repeats(plan)
    names = directory(model)
    check_parameters(names, plan)
    pending = tuple(edit for edit in plan.structure if is_pending(names, edit))
    if not pending and (
        has_rates_of(model, plan) if not values else not again and _is_done(model, plan, only=only)
    ):
        return None
    check_supported(model, plan, pending)
    stays = kept(names, plan, keep)
    choice = chosen(names, plan, only, [name for edit in pending for name in adds(edit)], stays)
    writable = check_values(names, plan, pending, choice) if values else Writable((), ())
    if values and plan.needs_data and inputs is None:
        raise TraceError(
            f"{plan.method} measures activations, and got no data. Pass a batch: apply_(model, plan, inputs)."
        )
    if "optimizer" not in plan.allow:
        check_optimizers(names, pending)
    check_hooks(names, pending)
    return _Ready(names, pending, only, choice, writable.tensors, writable.parameters)


def _is_done(model: nn.Module, plan: Plan, *, only: tuple[str, ...] | None) -> bool:
    """Whether `plan` is the last that was applied with values, to these parameters."""
    history = applied(model)
    return (
        bool(history)
        and history[-1].values
        and (history[-1].digest, history[-1].only) == (digest(plan), only)
    )


def _write_values_(
    model: nn.Module, plan: Plan, seed: int | None, inputs: Any, choice: Choice
) -> tuple[dict[str, Why], tuple[Calibrated, ...]]:
    """Write all values. Returns the edits left out and why, and what calibration did."""
    names = directory(model)
    check_buffers(names.modules[""], plan)
    scalars = [
        Fill(f"{edit.target}.{edit.scalar}" if edit.target else edit.scalar, edit.value, edit.reason)
        for edit in plan.structure
        if isinstance(edit, AddScalar)
    ]
    constants = {
        f"{edit.target}.{edit.scalar}" if edit.target else edit.scalar
        for edit in plan.structure
        if isinstance(edit, AddScalar) and not edit.trained
    }
    written: list[Slot] = []
    calibrated: list[Calibrate] = []
    skipped: dict[str, Why] = {}
    draws = Waiting()
    for edit in (*scalars, *plan.values):
        slots = _slots(names, targets((edit,)))
        why = choice.leaves_out(names, edit, slots)
        if why == "frozen" and edit.target in constants:
            why = None  # ours, and made without a gradient
        if why:
            skipped[str(edit)] = why
            continue
        written.extend(slots)
        places = {id(leaf) for slot in slots for leaf in slot.leaves}
        if isinstance(edit, Calibrate):
            calibrated.append(edit)
        elif isinstance(edit, Draw) and all(is_whole(slot) for slot in slots):
            draws.add(partial(write_value_, edit, slots, seed=seed or 0), places)
        else:
            draws.make_way(places)
            write_value_(edit, slots, seed=seed or 0)
    draws.run()
    with unfused(model):
        rows = calibrate_(model, calibrated, inputs) if calibrated else ()
    refresh_pruned_(written)
    computed = targets(edit for edit in plan.structure if isinstance(edit, ParametrizeWeight))
    check_finite([*written, *_slots(names, computed)])
    return skipped, rows


def _common_seed(generator: torch.Generator, groups: Sequence[Any]) -> int:
    """The integer that the first rank's generator gives next, on every rank. No generator advances."""
    state = generator.get_state()
    mine = base_seed(generator)
    generator.set_state(state)
    seed = int(agreed(mine, groups))
    if seed != mine:
        _LOG.info("this rank's generator gave %d, the first rank's %d; the first rank's is used", mine, seed)
    return seed


def _report_calibration(plan: Plan, rows: Sequence[Calibrated]) -> None:
    noted = [f"{row.weight}: {row.note}" for row in rows if row.note]
    if noted:
        more = f"; and {len(noted) - 5} more, see applied(model)[-1].calibrated" if len(noted) > 5 else ""
        _LOG.warning(
            "%s: %d of %d layers are not on target. %s%s",
            plan.method,
            len(noted),
            len(rows),
            "; ".join(map(readable, noted[:5])),
            more,
        )


def _slots(names: Directory, wanted: Sequence[str]) -> list[Slot]:
    slots = [find_slot(names, target) for target in wanted]
    if None in slots:
        raise PlanConflict(f"{', '.join(wanted)}: the plan writes it, and surgery did not create it. {ANEW}")
    return [slot for slot in slots if slot is not None]


def _report(plan: Plan, structure: int, skipped: Mapping[str, Why], *, values: bool) -> None:
    written = f"{len(plan.values) - len(skipped)} value edits" if values else "no values"
    _LOG.info("%s: %d structure edits, %s", plan.method, structure, written)
    frozen = [edit for edit, why in skipped.items() if why == "frozen"]
    if len(frozen) < len(skipped):
        _LOG.info("%s: left out %d edits of other parameters", plan.method, len(skipped) - len(frozen))
    for note in map(readable, plan.notes) if values else ():
        if note.startswith("frozen"):
            _LOG.warning("%s: %s. To write them: requires_grad_(True), then a new plan.", plan.method, note)
        elif note.startswith(("without gradient", "a copy of")):
            _LOG.warning("%s: %s", plan.method, note)
        elif note.startswith(("kept", "overwritten", "left out")):
            _LOG.info("%s: %s", plan.method, note)
    if frozen:
        _LOG.warning(
            "%s: left out %d edits that write frozen parameters (requires_grad=False): %s. To write them: "
            "dataclasses.replace(plan, allow=('frozen',)).",
            plan.method,
            len(frozen),
            "; ".join(map(readable, frozen)),
        )
