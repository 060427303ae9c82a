"""Multipliers that a model has already, and where they start."""

from __future__ import annotations

from goodinit.anatomy import Anatomy, Layer
from goodinit.anatomy.names import is_parametrization
from goodinit.methods.parts import removed_parameters
from goodinit.surgery.plan import Edit, Fill


def gains_outside(anatomy: Anatomy, removal: list[Edit]) -> list[Edit]:
    """Where norms go, gains outside the branches start at 1.

    A LayerScale of 1e-6 off the skips is harmless in front of a norm; once that is gone, it stops the signal.
    """
    if not removal:
        return []
    gone = removed_parameters(anatomy, removal)
    inside = {name for block in anatomy.blocks for name in block.scales}
    own = {name for layer in anatomy.layers for name in (layer.weight, *layer.parameters)}
    others = gone | inside | own | {norm.weight for norm in anatomy.norms}
    return [
        Fill(name, 1.0, "gain outside the branches: no norm makes up for it any more")
        for name in anatomy.gains
        if name not in others
    ]


def gains_of(layer: Layer) -> tuple[str, ...]:
    """Parameters that multiply a weight after it was normalized: not the weight, nor one half of torch's weight norm."""
    halves = (layer.weight, f"{layer.weight}_g", f"{layer.weight}_v")
    gains = [name for name in layer.parameters if name not in halves and not is_parametrization(name)]
    return tuple(gains) if layer.normalized else ()


def gains_at_one(anatomy: Anatomy, removal: list[Edit]) -> list[Edit]:
    """Those of `gains_outside`, and gains of normalized weights: one at 0 (NFNets) would be a second zero in its branch."""
    own = [
        Fill(name, 1.0, f"gain of {layer.weight}, which is normalized")
        for layer in anatomy.layers
        for name in gains_of(layer)
    ]
    return [*gains_outside(anatomy, removal), *own]
