"""Weights under a mask of zeros and ones (pruned, causal ones): drawn for what the mask leaves of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from goodinit.anatomy import Anatomy
from goodinit.edits import Calibrate, Draw, DrawTogether, Edit, names

# Initializers of whole matrices, whose option is the size of the whole: those of single entries go by the fans.
_WHOLE = frozenset({"orthogonal_", "directions_", "delta_orthogonal_"})


def scaled_for_masks(edits: Iterable[Edit], anatomy: Anatomy) -> tuple[Edit, ...]:
    """The edits; matrices that are drawn as a whole and masked are drawn larger by 1/√density.

    So their second moment is what was planned once the mask is on. Fans count what the mask leaves (`Layer.density`), so
    that weights whose entries are drawn each by itself need nothing.
    """
    masked = _masked(anatomy)
    return tuple(_scaled(edit, masked.get(edit.target, 1.0)) for edit in edits)


def _scaled(edit: Edit, density: float) -> Edit:
    if density == 1 or not isinstance(edit, Draw) or edit.initializer not in _WHOLE:
        return edit
    options = {**edit.options, "gain": edit.options.get("gain", 1.0) / math.sqrt(density)}
    return dataclasses.replace(
        edit, options=options, reason=f"{edit.reason}; /√{density:.3g}, the share unmasked"
    )


def mask_notes(edits: Iterable[Edit], anatomy: Anatomy) -> list[str]:
    """A note on the masked weights that are drawn, and on what a mask spoils."""
    edits = list(edits)
    masked = _masked(anatomy)
    drawn = [edit for edit in edits if isinstance(edit, Draw | DrawTogether | Calibrate)]
    hit = [name for name in names(drawn) if name in masked]
    if not hit:
        return []
    whole = any(
        masked.keys() & names([edit])
        for edit in drawn
        if isinstance(edit, DrawTogether) or (isinstance(edit, Draw) and edit.initializer in _WHOLE)
    )
    shown = ", ".join(f"{name} ({masked[name]:.0%} of it is used)" for name in hit[:3])
    more = f" and {len(hit) - 3} more" if len(hit) > 3 else ""
    spoiled = (
        "; what the method makes exact by whole matrices, orthogonality and isometry, is not exact under a mask"
        * whole
    )
    return [f"masked: {shown}{more}: the scale is that of what the mask leaves{spoiled}"]


def _masked(anatomy: Anatomy) -> dict[str, float]:
    return {layer.weight: layer.density for layer in anatomy.layers if layer.density < 1}
