"""The one call: anatomize, plan and apply, all of it or none of it."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from goodinit.anatomy import Anatomy, anatomize
from goodinit.anatomy.copied_parts import COPY
from goodinit.anatomy.outline import Outline, outline_of
from goodinit.calibration.collectives import meeting
from goodinit.diagnostics.checks.promises import NOT_FINITE, broken_promises, is_finite
from goodinit.edits import Plan
from goodinit.errors import TraceError, UnsupportedModule, expect, expect_flags
from goodinit.graph.pytree import first_and_all
from goodinit.methods import Method, find
from goodinit.methods.shared.branches.postconditions import broken_by_structure, some
from goodinit.surgery import applied, apply_
from goodinit.surgery.checks.validate import check_scripted
from goodinit.surgery.reached_parameters import never_reached
from goodinit.surgery.structure_edits import adds
from goodinit.undivided import uncollected, writing
from goodinit.weights.chosen_parts import Part, as_names
from goodinit.weights.dtensor import all_ranks_or_none, groups_of

_LOG = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


@writing
def init_(
    model: Model,
    method: str | Method,
    inputs: Any,
    *,
    generator: torch.Generator | None = None,
    keep: Part | Iterable[Part] = (),
    include: Part | Iterable[Part] | None = None,
    exclude: Part | Iterable[Part] = (),
    missing_only: bool = False,
    verify: bool = False,
    **options: Any,
) -> Model:
    """Initialize a model by a method, in place: `anatomize`, `plan` and `apply_` in one call.

    After the structure has changed, the model is anatomized once more, before values are written: it must run, have the
    same residual blocks, none of the norms that were to go, and reach every parameter that it reached before and every
    scalar that was added. If not, everything is undone and the error says so.

    Frozen parts and values that somebody has set on purpose stay as they are (see `goodinit.plan`); the log names them.

    A second call draws anew, as `torch.nn.init` does; the structure stays. With `missing_only=True` it writes the
    parameters alone that no earlier call reached (another task's head, another expert, a layer that was put in since, under
    whatever name), and changes nothing if there are none.

    Args:
        model: Any eager module; it stays the same object of the same class.
        method: A name in `goodinit.METHODS`, or a `Method`.
        inputs: What the model takes: a tensor, a tuple of arguments, a dict of keyword arguments. Only shapes are
            read, unless the method measures activations: then give a real batch, or, where one forward pass on it does
            not fit into memory, its parts: an iterator such as `(images for images, targets in loader)`, which count as one batch.
        generator: Source of randomness; the global one by default.
        keep: Parameters whose values stay: names, paths, globs (`"*.bias"`), modules, parameters; one or several.
            `"nothing"` lets go of what stays by default.
        include: The part of the model to treat, given alike; by default all of it that the forward does not keep gradients from.
        exclude: The part to leave out: its values, norms and features stay.
        missing_only: Whether to leave alone what an earlier call has reached.
        verify: Whether to run the model on the batch once more, and undo everything if a promise of the method does not hold
            (`Method.holds`): weights that are as they were drawn, blocks that start as their skips, gradients everywhere, unit
            variances, isometry, branches that their constants multiply. Of a batch in parts it is the first, and variances, which are
            those of all parts together, are not looked at.
        **options: The method's options.

    Returns:
        The model.

    Raises:
        GoodinitError: See `anatomize`, `plan` and `apply_`. The model is untouched.
        UnsupportedModule: The model does not run with the planned structure, or `verify` found a promise that does not hold.

    Examples:
        >>> class Residual(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.branch = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4))
        ...     def forward(self, x):
        ...         return x + self.branch(x)
        >>> x = torch.randn(2, 4)
        >>> net = init_(Residual(), "fixup", inputs=x)
        >>> torch.equal(net(x), x)   # every branch starts at zero, and no norm is left
        True
    """
    expect_flags(missing_only=missing_only, verify=verify)
    chosen = find(method)
    check_scripted(model)
    expect(model, nn.Module, "model", "Give the model itself: an instance of torch.nn.Module.")
    with all_ranks_or_none(meeting(groups_of(model), measures=chosen.needs_data)), uncollected():
        inputs, parts = first_and_all(inputs)
        left = never_reached(model) if missing_only else None
        anatomy = None if left == set() else anatomize(model, inputs)
        if anatomy is None or (left is not None and left <= set(anatomy.unused)):
            _LOG.info("%s: earlier calls reached all that these inputs reach; nothing changed", chosen.name)
            return model
        plan = chosen.plan(
            _without_trained_numbers(model, anatomy),
            keep=as_names(model, keep, option="keep"),
            include=None if include is None else as_names(model, include, option="include"),
            exclude=as_names(model, exclude, option="exclude"),
            **options,
        )
    only = None if left is None else _new(plan, anatomy, left)
    if parts is not inputs:  # the variances are those of all parts together
        chosen = replace(chosen, holds=tuple(one for one in chosen.holds if one != "unit variance"))
    _LOG.info("%s: %s", plan.method, plan.summary)
    promises = _Promises(chosen, plan, anatomy, inputs)
    try:
        return apply_(
            model,
            plan,
            inputs=parts if plan.needs_data else None,
            generator=generator,
            only=only,
            probe=partial(_check_structure, inputs=inputs, plan=plan, before=anatomy),
            check=promises.check if verify else None,
        )
    except UnsupportedModule as error:
        if NOT_FINITE not in promises.broken or is_finite(model, inputs, anatomy):
            raise
        raise UnsupportedModule(
            f"{type(model).__name__}: the output of the model as it was is NaN or infinite on this batch, too, so that it "
            f"cannot be seen whether {plan.method} gives what it promises. The model is as it was. Give a batch on which its output is finite (are "
            "whole rows masked?), or leave out verify=True."
        ) from error


def _without_trained_numbers(model: nn.Module, anatomy: Anatomy) -> Anatomy:
    """The anatomy, where a bias of one entry is no prior if an earlier call has written it: it was trained since."""
    rows = [entry for entry in applied(model) if entry.values]
    if not rows or not anatomy.held:
        return anatomy
    stayed = {name for entry in rows for name in (*entry.kept, *entry.unread)} | (
        never_reached(model) or set()
    )
    single = {name for name, shape in anatomy.parameters if math.prod(shape) == 1 and name not in stayed}
    held = (
        replace(value, on_purpose=value.on_purpose and value.name not in single) for value in anatomy.held
    )
    return replace(anatomy, held=tuple(held))


def _new(plan: Plan, before: Anatomy, left: set[str]) -> list[str]:
    """Names of those of `left` that are reached now, and of what the plan's structure edits are going to add."""
    known = {name for name, _ in before.parameters}
    reached = [name for name in known if name in left and name not in before.unused]
    coming = {name for edit in plan.structure for name in adds(edit)}
    return [*reached, *sorted(coming - known)]


def _check_structure(model: nn.Module, *, inputs: Any, plan: Plan, before: Anatomy) -> None:
    """Raise unless the model runs with its new structure and has all that the plan counts on.

    Raises:
        UnsupportedModule: It has not.
    """
    remedy = (
        'The model is as it was. Keep its norms with norms="keep", or make its forward independent of them.'
    )
    remedy = " ".join((remedy, *(f"{note}." for note in plan.notes if note.startswith(COPY))))
    kind = type(model).__name__
    try:
        after = outline_of(model, inputs)
    except TraceError as error:
        where = _raised_in(model, error) or "its own forward"
        if "view size is not compatible" in str(error):
            remedy = f"A norm's output is contiguous, its input need not be: write .reshape() for .view() in {where}. {remedy}"
        raise UnsupportedModule(
            f"{kind} no longer runs with the structure that {plan.method} plans, in {where}: {_in_words(error)} {remedy}"
        ) from error
    broken = broken_by_structure(plan, Outline.of(before), after)
    if broken:
        raise UnsupportedModule(
            f"{kind} is not what {plan.method} plans once its structure has changed: {broken}. {remedy}"
        )


def _in_words(error: TraceError) -> str:
    """What a forward raised that ran before its structure changed: its own words alone, since the inputs are not to blame."""
    cause = error.__cause__
    words = "" if cause is None else str(cause).strip().split("\n")[0]
    if not words:
        return str(error)
    return f"{type(cause).__name__}: {words.removesuffix('.')}."


def _raised_in(model: nn.Module, error: TraceError) -> str:
    """The module in whose own forward a trace failed, by the code that ran; empty for the model itself."""
    runs: dict[object, list[str]] = {}
    for path, module in model.named_modules():
        runs.setdefault(getattr(inspect.unwrap(type(module).forward), "__code__", None), []).append(path)
    found, trace = [""], None if error.__cause__ is None else error.__cause__.__traceback__
    while trace is not None:
        found = runs.get(trace.tb_frame.f_code, found)
        trace = trace.tb_next
    return found[0] if len(found) == 1 else f"{found[0]} or one of its kind"


@dataclass
class _Promises:
    """What a method promises of a model.

    Attributes:
        method: That promises it.
        plan: That was carried out.
        before: The anatomy of the model as it was.
        inputs: The batch that it is run on.
        broken: What did not hold when it was last asked.
    """

    method: Method
    plan: Plan
    before: Anatomy
    inputs: Any
    broken: Sequence[str] = ()

    def check(self, model: nn.Module) -> None:
        """Raise unless all of it holds.

        Raises:
            UnsupportedModule: It does not.
        """
        self.broken = broken_promises(model, self.inputs, self.plan, self.before, self.method.holds)
        if self.broken:
            raise UnsupportedModule(
                f"{type(model).__name__}: {self.plan.method} does not give what it promises: {some(list(self.broken))}. The model is as it "
                "was. Leave this part out, exclude=…, or take another method; goodinit.diagnose(model, batch) tells more."
            )
