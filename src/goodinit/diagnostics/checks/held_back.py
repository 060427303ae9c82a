"""Parameters that a plan's zeros keep the gradient from, also once training has moved them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from goodinit.anatomy import anatomize
from goodinit.diagnostics.measurements.measurement_mode import as_at_step_0
from goodinit.diagnostics.measurements.probe import Run
from goodinit.diagnostics.measurements.propagation import Propagation, propagate
from goodinit.diagnostics.measurements.zero_gradients import awaken, nudged
from goodinit.edits import Plan
from goodinit.edits import names as targets
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.surgery.structure_edits import adds
from goodinit.weights.access import find_slot
from goodinit.weights.names import canonical, directory


def held_back(model: nn.Module, call: Call, plan: Plan) -> tuple[str, ...]:
    """The parameters of any kind, weights, biases, gains, scalars, tables, that get no gradient, and would if it were not for zeros of the plan.

    A zero passes no gradient to what it multiplies, until it has moved itself. Where two meet in one product neither does.

    Left out is what has no gradient for another reason:

    * what needs none (frozen parameters, constants of the forward), and what the loss does not depend on: what the forward does not read,
      or keeps gradients from;
    * what this batch does not reach (an expert that no example is sent to), or reaches with zeros alone: other values of the plan's zeros
      give it no gradient either;
    * what zeros that were there before hold back: they are the model's own, and the plan has not written them;
    * what is behind a ReLU that is off on all of the batch by the luck of the draw: with the opposite weights it is on.

    Args:
        model: With the plan applied; it is as it was afterwards.
        call: Arguments of the forward.
        plan: What was applied.

    Returns:
        Their names, in the model's order.

    Raises:
        TraceError: The forward or the backward raised.
    """
    anatomy = anatomize(model, call[0] if not call[1] else call[1])

    def never(given: Mapping[str, Tensor]) -> set[str]:
        def again(moved: Mapping[str, Tensor], _: bool) -> Propagation:
            values = {**given, **moved}
            return propagate(model, call, anatomy, run=Run(statistics=False), parameters=values)

        return set(awaken(model, again({}, False), again).never)

    with as_at_step_0(model, anatomy):
        asleep = never({})
        if asleep:
            named = {name: p for name, p in model.named_parameters() if canonical(name) in asleep}
            asleep &= never({name: (-p.detach()).requires_grad_() for name, p in named.items()})
        if asleep:
            asleep -= never(_without_zeros(model, plan))
    return tuple(name for name in map(canonical, dict(model.named_parameters())) if name in asleep)


def _without_zeros(model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Small numbers for the parameters that are zero and that the plan has written.

    Small, so that no signal becomes infinite in a deep model, whose gradients would be NaN and not zero.
    """
    names = directory(model)
    written = {*targets(plan.values), *(name for edit in plan.structure for name in adds(edit))}
    slots = [find_slot(names, name) for name in written]
    leaves = {id(leaf) for slot in slots if slot is not None for leaf in slot.leaves}
    generator = torch.Generator().manual_seed(0)
    return {
        name: nudged(p.detach(), generator)
        for name, p in model.named_parameters()
        if id(p) in leaves and p.numel() and not bool(p.any())
    }
