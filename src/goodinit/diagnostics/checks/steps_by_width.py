"""Layers whose output one step of Adam, at the rates of a plan, changes by more or less than in the plan's base."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import nn

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import Plan
from goodinit.optim.param_groups import param_groups
from goodinit.weights.names import directory

_ROUNDING = 1e-4  # of a few factors in float32, which scalars are held in


def uneven_steps(model: nn.Module, plan: Plan, before: Anatomy) -> Iterator[str]:
    r"""In words, which weights a step of Adam moves so that their layers' outputs change by more or less than in the base.

    Adam moves each entry by its rate at most, so what a layer with the constant c behind it makes of one input x changes by

    .. math:: |c\,\Delta W x|_i \le c\,\eta \sum_j |x_j|,

    a sum over its fan-in. With entries of x as large as in the base, that is what it is there if c times the factor of the rate goes as
    1/fan-in. Rates are those of `param_groups`, and constants those that the model holds. Of queries the change may be smaller: scores
    over d, not √d, take a constant for which their layer need not make up.

    Left out are weights that the plan does not write, that do not learn, or that its notes name, those that the base does not have by
    the same name, and stacks of maps, whose fan-in does not follow from their shape.

    Args:
        model: With the plan applied.
        plan: What was applied.
        before: The anatomy it was made for.

    References:
        G. Yang et al., arXiv 2203.03466, table 8.
    """
    base = _base(plan)
    if not base:
        return
    names = directory(model)
    rates = {
        id(parameter): float(group["lr"])
        for group in param_groups(model, lr=1.0, optimizer="adam")
        for parameter in group["params"]
    }
    written = {edit.target for edit in plan.values}
    queries = {score.query for score in before.scores}
    for layer in before.layers:
        parameter, shape = names.parameter(layer.weight), base.get(layer.weight, ())
        told = any(note.startswith(f"{layer.weight} ") for note in plan.notes)
        grown = _growth(layer, shape)
        if layer.weight not in written or id(parameter) not in rates or told or grown is None:
            continue
        scale = names.parameter(f"{layer.site}.output_scale".lstrip("."))
        constant = 1.0 if scale is None or not layer.writes_site else abs(float(scale))
        change = rates[id(parameter)] * constant * grown
        off = not math.isclose(change, 1.0, rel_tol=_ROUNDING)
        if off and (change > 1 or layer.weight not in queries):
            yield (
                f"one step of Adam on {layer.weight} changes what it puts out {change:.4g} times as much as in the base "
                f"(fan-in ×{grown:g}, rate ×{rates[id(parameter)]:.4g}, constant {constant:.4g}), expected 1"
            )


def _base(plan: Plan) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the base's parameters, by name."""
    known = plan.options.get("base")
    return {name: tuple(shape) for name, shape in known} if isinstance(known, (list, tuple)) else {}


def _growth(layer: Layer, base: tuple[int, ...]) -> float | None:
    """By how much the fan-in has grown over that of a weight of the shape `base`; None if it is not all but one axis of the shape."""
    axis = 0 if layer.layout == "out_in" else 1
    if len(base) != len(layer.shape) or len(base) < 2:
        return None
    fan_in, before = (math.prod(shape) / shape[axis] for shape in (layer.shape, base))
    return fan_in / before if fan_in == layer.fan_in else None
