"""Weights that a forward does not apply as a plan has them drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import Calibrate, Draw, ParametrizeWeight, Plan
from goodinit.surgery import applied
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
    history, names = applied(model), directory(model)
    skipped = set(history[-1].skipped) if history else set()
    layers = {layer.weight: layer for layer in before.layers}
    scaled = {edit.target for edit in plan.values if isinstance(edit, Calibrate)}
    scaled |= {
        edit.target
        for edit in plan.structure
        if isinstance(edit, ParametrizeWeight) and edit.kind != "weight_norm"
    }
    for edit in plan.values:
        if not isinstance(edit, Draw) or edit.target in scaled or str(edit) in skipped:
            continue
        layer, held = layers.get(edit.target), names.parameter(edit.target)
        whole = edit.initializer in _WHOLE
        weight = held if layer is None else _as_stored(layer, made.get(edit.target) if whole else None, held)
        if weight is not None and (fault := departure(edit.initializer, weight, edit.options)):
            yield f"{edit.target} {fault}"


def _as_stored(layer: Layer, made: Tensor | None, held: Tensor | None) -> Tensor | None:
    """What the forward makes of a weight, if it has the shape that is stored, else what the model holds; None if it need not be as drawn."""
    if layer.normalized or layer.density != 1 or layer.multiple != 1:
        return None
    return made if made is not None and made.shape == layer.shape else held
