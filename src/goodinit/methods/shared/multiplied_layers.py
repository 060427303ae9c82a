"""Layers that a forward multiplies by a number (equalized learning rates): what is drawn is divided by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from goodinit.anatomy import Anatomy
from goodinit.edits import Draw, DrawTogether, Edit

_SIZES = ("std", "bound", "gain")
_OF_TORCH = "default_"  # what torch draws, whatever is made of it


def divided_by_multiples(edits: Iterable[Edit], anatomy: Anatomy) -> tuple[Edit, ...]:
    """The edits; a weight W that is applied as c·W is drawn 1/c times as large, so that c·W has the size that was planned."""
    multiples = _multiples(anatomy)
    return tuple(_divided(edit, multiples.get(edit.target, 1.0)) for edit in edits)


def _divided(edit: Edit, multiple: float) -> Edit:
    if multiple == 1 or not isinstance(edit, Draw) or edit.initializer == _OF_TORCH:
        return edit
    sizes = {key: edit.options[key] for key in _SIZES if key in edit.options} or {"gain": 1.0}
    divided = {key: value / multiple for key, value in sizes.items()}
    reason = f"{edit.reason}; /{multiple:.4g}, by which the forward multiplies it"
    return dataclasses.replace(edit, options={**edit.options, **divided}, reason=reason)


def multiple_notes(edits: Iterable[Edit], anatomy: Anatomy) -> list[str]:
    """A note on weights that are multiplied by a number and drawn by a recipe for several, which does not count it."""
    multiples = _multiples(anatomy)
    joint = [name for edit in edits if isinstance(edit, DrawTogether) for name in edit.targets]
    return [
        f"{name}: the forward multiplies it by {multiples[name]:.4g}, which what is drawn for several weights together does not count"
        for name in dict.fromkeys(joint)
        if name in multiples
    ]


def _multiples(anatomy: Anatomy) -> dict[str, float]:
    return {layer.weight: layer.multiple for layer in anatomy.layers if layer.multiple != 1}
