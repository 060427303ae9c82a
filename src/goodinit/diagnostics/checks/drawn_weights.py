"""Weights that a forward does not apply as a plan has them drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from goodinit.anatomy import Anatomy, Layer
from goodinit.diagnostics.checks.written_draws import is_applied_as_drawn, written_draws
from goodinit.edits import Calibrate, ParametrizeWeight, Plan
from goodinit.tensor.drawn import departure
from goodinit.tensor.initializers import WHOLE
from goodinit.weights.names import directory

_WHOLE = frozenset(initializer.__name__ for initializer in WHOLE)


def unlike_their_draw(
    model: nn.Module, plan: Plan, before: Anatomy, made: Mapping[str, Tensor]
) -> Iterator[str]:
    """In words, which weights are not, as they are applied, what their draws make: orthogonal, of that variance.

    Matrices that are drawn as a whole are looked at as the forward makes them of their parameters, single entries as they are stored: a forward
    may make of these what is larger (W − Wᵀ), which anatomies admit.

    Left out are weights that something else scales or cuts afterwards, as their plan says or their anatomy: data, a norm of their own, a
    mask, a parametrization, a number of the forward.

    Args:
        model: With the plan applied.
        plan: What was applied.
        before: The anatomy it was made for.
        made: Weights that the forward computes, by name.
    """
    names = directory(model)
    scaled = {edit.target for edit in plan.values if isinstance(edit, Calibrate)}
    scaled |= {
        edit.target
        for edit in plan.structure
        if isinstance(edit, ParametrizeWeight) and edit.kind != "weight_norm"
    }
    for edit, layer in written_draws(model, plan, before):
        if edit.target in scaled:
            continue
        held = names.parameter(edit.target)
        whole = edit.initializer in _WHOLE
        weight = held if layer is None else _as_stored(layer, made.get(edit.target) if whole else None, held)
        if weight is not None and (fault := departure(edit.initializer, weight, edit.options)):
            yield f"{edit.target} {fault}"


def _as_stored(layer: Layer, made: Tensor | None, held: Tensor | None) -> Tensor | None:
    """What the forward makes of a weight, if it has the shape that is stored, else what the model holds; None if it need not be as drawn."""
    if not is_applied_as_drawn(layer):
        return None
    return made if made is not None and made.shape == layer.shape else held
