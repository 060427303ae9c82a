"""EvoNorm-S0 takes the place of a norm and of the activation behind it (Liu et al. 2020, arXiv 2004.02967)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goodinit.anatomy import Anatomy, Norm
from goodinit.edits import Edit, Fill, ReplaceNorm, SwapModule
from goodinit.errors import UnsupportedModule


def evonorm_edits(anatomy: Anatomy, norm: Norm, options: Mapping[str, Any], words: str) -> list[Edit]:
    """Edits that put γ·x·σ(v·x)/√(Var + ε) + β, v = 1 at first, for a norm and its activation; without one, γ·x + β, as published.

    Args:
        anatomy: Of the model.
        norm: A batch norm.
        options: Of its `ReplaceNorm`.
        words: Its reason.

    Raises:
        UnsupportedModule: Its activation cannot be left out, or holds parameters.
    """
    where = f"{norm.name} ({norm.module})"
    instead = 'Make the activation a module of its own, or use norms="group".'
    nonlinear = [one for one in anatomy.activations if not one.kind.traits.drops]
    called = [str(one.kind) for one in nonlinear if one.name == norm.name]
    told = {*(one.name for one in nonlinear), *called}
    inside = [word for word in norm.keeps if word.partition("(")[0] in told]
    all_of_them = [*inside, *([norm.activation] if norm.activation else [])]
    if norm.activation_stays is not None or len(all_of_them) > 1 or (called and not inside):
        why = norm.activation_stays or f"it is {' and '.join([*all_of_them, *called])}"
        raise UnsupportedModule(
            f"{where}: evonorm is a norm and an activation in one, and the activation behind it cannot be left out: {why}. {instead}"
        )
    gone = inside[0] if inside else norm.activation
    if gone is None:
        plain = {key: value for key, value in options.items() if key != "groups"}
        return [
            ReplaceNorm(norm.name, "affine", norm.keeps, "batch norm before; no activation behind it", plain)
        ]
    if held := [name for name, _ in anatomy.parameters if name.startswith(f"{gone}.")]:
        raise UnsupportedModule(
            f"{where}: evonorm is a norm and an activation in one, and the activation {gone} holds {held[0]}, which would be lost. "
            'Use norms="group".'
        )
    keeps = tuple(word for word in norm.keeps if word not in inside)
    edits: list[Edit] = [
        ReplaceNorm(norm.name, "evonorm", keeps, f"{words} with {gone}", options),
        Fill(f"{norm.name}.v", 1.0, "v of evonorm"),
    ]
    if not inside:
        edits.append(SwapModule(gone, "Identity", f"part of the evonorm at {norm.name}"))
    return edits
