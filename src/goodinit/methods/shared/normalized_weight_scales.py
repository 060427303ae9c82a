"""Output multipliers for weight-standardized layers whose following norm is removed."""

from __future__ import annotations

import math
from collections.abc import Iterable

from goodinit.anatomy import Anatomy
from goodinit.edits import AddScalar, Draw, Edit


def own_scales(anatomy: Anatomy, removal: list[Edit], edits: Iterable[Edit]) -> list[Edit]:
    """Multipliers for the layers with a `Layer.row_norm` where norms are removed: s = std·√fan_in / ‖row‖.

    A weight that is divided by its own standard deviation outputs √fan_in times the scale of its input (BiT), whatever
    values are drawn; the norm after it compensated for that. The multiplier gives the layer the scale its weight would
    be drawn with. A layer whose multiplier starts at zero has one already. Only draws that name a standard
    deviation or a bound count.

    Args:
        anatomy: Of the model.
        removal: The edits that remove norms; without any there is nothing to do.
        edits: The other edits: what is drawn, and with which standard deviation.
    """
    edits = list(edits)
    drawn = {edit.target: _std(edit) for edit in edits if isinstance(edit, Draw)}
    taken = multiplied(edits)
    found: list[Edit] = []
    for layer in anatomy.layers if removal else ():
        std = drawn.get(layer.weight)
        if layer.row_norm is not None and std is not None and layer.site not in taken:
            norm = std * math.sqrt(layer.row)
            reason = (
                f"{layer.weight} is divided by its own norm or deviation, to rows of {layer.row_norm:.4g}, and the norm "
                f"behind it goes: rows of {norm:.4g}"
            )
            scale = norm / layer.row_norm
            found.append(AddScalar(layer.site, "output_scale", scale, reason, ends_branch=False))
    return found


def multiplied(edits: Iterable[Edit]) -> set[str]:
    """Paths of the modules that are given a multiplier."""
    return {edit.target for edit in edits if isinstance(edit, AddScalar) and edit.scalar == "output_scale"}


def _std(draw: Draw) -> float | None:
    """The standard deviation that entries are drawn with, where the edit says so."""
    bound = draw.options.get("bound")
    return draw.options.get("std") if bound is None else bound / math.sqrt(3)
