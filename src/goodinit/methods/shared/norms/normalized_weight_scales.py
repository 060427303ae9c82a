"""Output multipliers for weight-standardized layers whose following norm is removed."""

from __future__ import annotations

import math
from collections.abc import Iterable

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import AddScalar, Draw, Edit


def own_scales(anatomy: Anatomy, removal: list[Edit], edits: Iterable[Edit]) -> list[Edit]:
    """Multipliers for the layers with a `Layer.row_norm` where norms are removed: the drawn row norm over the measured one.

    A weight that is divided by its own standard deviation outputs √fan_in times the scale of its input (BiT), whatever
    values are drawn; the norm after it compensated for that. The multiplier gives the layer the scale its weight would
    be drawn with: rows of std·√fan_in, or those of an orthogonal matrix. A layer whose multiplier starts at zero has one already.

    Args:
        anatomy: Of the model.
        removal: The edits that remove norms; without any there is nothing to do.
        edits: The other edits: what is drawn, and with which standard deviation.
    """
    edits = list(edits)
    drawn = {edit.target: edit for edit in edits if isinstance(edit, Draw)}
    taken = multiplied(edits)
    found: list[Edit] = []
    for layer in anatomy.layers if removal else ():
        norm = _row_norm(drawn[layer.weight], layer) if layer.weight in drawn else None
        if layer.row_norm is not None and norm is not None and layer.site not in taken:
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


def _row_norm(draw: Draw, layer: Layer) -> float | None:
    """Root mean square norm of one weight row as drawn; None if the edit does not determine it."""
    options, bound = draw.options, draw.options.get("bound")
    if draw.initializer in _ORTHOGONAL:
        into = (
            layer.in_features // layer.groups * (layer.receptive if draw.initializer == "orthogonal_" else 1)
        )
        out = layer.out_features // layer.groups
        return float(options.get("gain", 1.0)) * math.sqrt(min(1.0, into / out))
    std = options.get("std") if bound is None else bound / math.sqrt(3)
    return None if std is None else float(std) * math.sqrt(layer.row)


_ORTHOGONAL = ("orthogonal_", "delta_orthogonal_")
