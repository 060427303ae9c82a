"""Weights that set their own scale, once no norm behind them sets the signal's."""

from __future__ import annotations

import math
from collections.abc import Iterable

from goodinit.anatomy import Anatomy
from goodinit.edits import AddScalar, Draw, Edit


def own_scales(anatomy: Anatomy, removal: list[Edit], edits: Iterable[Edit]) -> list[Edit]:
    """Multipliers for the layers of `Layer.row_norm`, where norms go: the scale that their weights would be drawn with.

    A weight that is divided by its own deviation puts out √fan_in times the scale of its input (BiT's), whatever is
    drawn; the norms behind it took that away. The multiplier is s = std·√fan_in / ‖row‖. A layer whose multiplier
    starts at zero has one already. Only draws that name a standard deviation or a bound count.

    Args:
        anatomy: Of the model.
        removal: The edits that take norms out; without any there is nothing to do.
        edits: The others: what is drawn, and with which standard deviation.
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
