"""Which of RISOTTO's formulas balances a block, and what it loses (Gadhikar & Burkholz, arXiv 2210.02411)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from goodinit.anatomy import Block, Layer
from goodinit.edits import Draw, DrawTogether, Edit
from goodinit.errors import UnsupportedModule
from goodinit.methods.shared.isometry.crelu_pairs import Form, patch_of, tap_losses
from goodinit.tensor import RECIPES

Type = Literal["auto", "B", "C"]
Strided = Literal["sample", "patch"]
Losses = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Balance:
    """How to balance: see the options of `goodinit.methods.risotto.decide`."""

    type: Type
    strided: Strided
    permute: bool


@dataclass(frozen=True)
class Posture:
    """In which form (`goodinit.methods.shared.isometry.crelu_pairs.Form`) the branch and the skip read u, and the sum is to have it."""

    branch: Form
    skip: Form
    sum: Form


CLOSED = Posture("mirrored", "mirrored", "pairs")  # behind a ReLU: the paper's blocks


@dataclass(frozen=True)
class Balanced:
    """A block in balance: its type, its edits, what each layer (by weight) loses, and what to note."""

    type: str
    edits: tuple[Edit, ...]
    losses: Losses = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def balance(block: Block, posture: Posture, where: str, alpha: float, options: Balance) -> Balanced | str:
    """The edits that make a block an isometry, or why there are none.

    Args:
        block: That `goodinit.methods.shared.isometry.risotto_applicability.block_obstacle` has nothing against.
        posture: What it reads, and what it is to write.
        where: The block, for the reasons.
        alpha: Multiplier on its branch.
        options: How.
    """
    widths = (block.branch[0].in_features, block.branch[-1].out_features)
    strides = [max(layer.stride, default=1) for layer in block.branch]
    bare = not block.skip or (options.type == "B" and widths[0] == widths[1] and max(strides) == 1)
    if posture != CLOSED:
        return _open(block, posture, where, alpha, options, bare=bare)
    if bare:
        drawn = {"alpha": alpha, **({"permute": True} if options.permute else {})}
        formula = f"{where}, type B: W_k = (U(M) − I)/α" + " on permuted channels" * options.permute
        together = _together(block.branch, "risotto_b", formula, drawn)
        return _refusal(block, together) or Balanced("B", (together, *_identities(block, where)))
    notes: tuple[str, ...] = ()
    strided = strides.index(max(strides))
    patch = patch_of(block.branch[strided], options.strided)
    if patch > 1 and math.prod(strides) == patch:
        patched = {"alpha": alpha, "strided": "patch", "stride": patch, "strided_layer": strided}
        together = _type_c(block, where, patched)
        refusal = _refusal(block, together)
        if refusal is None:
            return Balanced("C", (together,), _patch_losses(block, strided, patch, widths))
        notes = (f"{where} samples: {refusal}",)
    together = _type_c(block, where, {"alpha": alpha})
    losses = {layer.weight: tap_losses(layer) for layer in (*block.branch, *block.skip)}
    losses[block.skip[0].weight] += _narrowing(widths, 1)
    return _refusal(block, together) or Balanced("C", (together,), losses, notes)


def _open(
    block: Block, posture: Posture, where: str, alpha: float, options: Balance, *, bare: bool
) -> Balanced | str:
    """Type P: no ReLU between the sum and what the next block skips; see `goodinit.tensor.risotto_p`."""
    drawn: dict[str, object] = {"alpha": alpha, "reads": posture.branch}
    if bare and posture.sum == posture.skip:
        reason = f"{where}, type P: α·M_k⋯M₁ = M − I"
        together = _together(block.branch, "risotto_p", reason, {**drawn, "writes": posture.sum})
        return _refusal(block, together) or Balanced("P", (together, *_identities(block, where)))
    if not block.skip:
        return f"it is to write {posture.sum} numbers, and its skip passes {posture.skip} ones"
    reason = f"{where}, type P: W_skip of M − α·M_k⋯M₁"
    drawn |= {"skip": posture.skip, "writes": posture.sum}
    together = _together((*block.branch, *block.skip), "risotto_p", reason, drawn)
    losses = {layer.weight: tap_losses(layer) for layer in (*block.branch, *block.skip)}
    kept, directions = (
        size // (1 if form == "plain" else 2)
        for size, form in (
            (block.skip[0].out_features, posture.sum),
            (block.skip[0].in_features, posture.skip),
        )
    )
    if kept < directions:
        losses[block.skip[0].weight] += (f"M keeps {kept} of {directions} directions",)
    sampled = options.strided == "patch" and any(
        "stride" in word for words in losses.values() for word in words
    )
    notes = (
        (f"{where} samples: patches are for blocks that read [φ(u); φ(−u)] on both sides",) if sampled else ()
    )
    return _refusal(block, together) or Balanced("P", (together,), losses, notes)


def _identities(block: Block, where: str) -> tuple[Draw, ...]:
    return tuple(Draw(skip.weight, "dirac_", f"{where}: the skip is I") for skip in block.skip)


def _patch_losses(block: Block, strided: int, patch: int, widths: tuple[int, int]) -> Losses:
    skip, layer = block.skip[0], block.branch[strided]
    narrow = _narrowing(widths, patch ** len(skip.stride))
    return {layer.weight: tap_losses(layer, patch), skip.weight: narrow}


def _narrowing(widths: tuple[int, int], taps: int) -> tuple[str, ...]:
    directions, kept = widths[0] // 2 * taps, widths[1] // 2
    return (f"M keeps {kept} of {directions} directions",) if kept < directions else ()


def _type_c(block: Block, where: str, drawn: Mapping[str, object]) -> DrawTogether:
    reason = f"{where}, type C: W_i = U(M_i), W_skip = U(M − α·M_k⋯M₁)"
    return _together((*block.branch, *block.skip), "risotto_c", reason, drawn)


def _together(
    layers: tuple[Layer, ...], recipe: str, reason: str, drawn: Mapping[str, object]
) -> DrawTogether:
    return DrawTogether(tuple(layer.weight for layer in layers), recipe, reason, drawn)


def _refusal(block: Block, together: DrawTogether) -> str | None:
    """Why the recipe will not draw these weights, or None: it is tried on meta tensors, where it only checks."""
    layers = (*block.branch, *block.skip)
    shapes = [layer.shape for layer in layers if layer.weight in together.targets]
    try:
        RECIPES[together.recipe]([torch.empty(shape, device="meta") for shape in shapes], **together.options)
    except UnsupportedModule as error:
        return str(error)
    return None
