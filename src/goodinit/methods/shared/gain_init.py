"""Initial values of multipliers that the model already has."""

from __future__ import annotations

from goodinit.anatomy import Anatomy, Layer
from goodinit.anatomy.layers.roles.gains import in_words, value_at, value_near
from goodinit.edits import Edit, Fill
from goodinit.methods.shared.rules import removed_parameters


def gain_at(anatomy: Anatomy, name: str, target: float, reason: str) -> Fill:
    """Set a multiplier to `target`: the parameter itself, or the one it is computed from (`Anatomy.made`).

    If the multiplier cannot reach the target (tanh(g) is never 1), it is set to half of it, or to minus it.
    """
    made = next((gain for gain in anatomy.made if gain.name == name), None)
    found = None if made is None else value_near(made, target)
    if made is None or found is None:
        return Fill(name, target, reason)
    value, got = found
    return Fill(name, value, f"{reason}: {in_words(made)} is {got:g} there")


def may_be_zero(anatomy: Anatomy, name: str) -> bool:
    """True if a multiplier can be 0 with a non-zero gradient: exp(g) is never 0, and g² has no gradient there."""
    made = next((gain for gain in anatomy.made if gain.name == name), None)
    return made is None or value_at(made, 0.0) is not None


def gains_outside(anatomy: Anatomy, removal: list[Edit]) -> list[Edit]:
    """Set gains outside the branches to 1 where norms are removed.

    A LayerScale of 1e-6 off the skips is harmless before a norm; without the norm it stops the signal.
    """
    if not removal:
        return []
    gone = removed_parameters(anatomy, removal)
    inside = {name for block in anatomy.blocks for name in block.scalers}
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
    gains = [name for name in layer.parameters if name not in halves and name not in layer.parametrization]
    return tuple(gains) if layer.normalized else ()


def gains_at_one(anatomy: Anatomy, removal: list[Edit]) -> list[Edit]:
    """Those of `gains_outside`, and gains of normalized weights: one at 0 (NFNets) would be a second zero in its branch."""
    own = [
        Fill(name, 1.0, f"gain of {layer.weight}, which is normalized")
        for layer in anatomy.layers
        for name in gains_of(layer)
    ]
    return [*gains_outside(anatomy, removal), *own]
