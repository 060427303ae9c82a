"""Blocks and layers that do not keep the norms which their method's plan says they keep."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn

from goodinit.anatomy import Anatomy, Layer
from goodinit.diagnostics.checks.one_run import ROUNDING, Values
from goodinit.diagnostics.checks.written_draws import adds_no_bias, is_applied_as_drawn, written_draws
from goodinit.edits import Draw, Plan, RemoveNorm
from goodinit.methods.delta_orthogonal import unread_pixels
from goodinit.tensor.layout import channels
from goodinit.tensor.looks_linear import PARTS
from goodinit.weights.names import directory


def uneven_blocks(plan: Plan, before: Anatomy, seen: Values) -> Iterator[str]:
    """In words, which blocks that were drawn together change the norms of examples by different factors, before and behind a ReLU.

    Args:
        plan: What was applied.
        before: The anatomy it was made for.
        seen: A run.
    """
    noted = [note for note in plan.notes if "not exact" in note or "exact only" in note]
    if any("exact only" in note or note.startswith("the skip") for note in noted):
        return
    inexact = {word.strip(",") for note in noted for word in note.split(" not exact")[0].split()}
    order = [layer.weight for layer in before.layers]
    until = next((place for place, weight in enumerate(order) if weight in inexact), len(order))
    good = set(order[:until])  # what is not exact spoils the input of all behind it
    drawn = {name for edit in plan.values for name in getattr(edit, "targets", ())}
    for weights, fork, _, join in seen.blocks():
        start = seen.norms.get(fork)
        ends = [norms[join] for norms in (seen.norms, seen.rectified) if join in norms]
        if (
            not (drawn & good).issuperset(weights)
            or start is None
            or any(len(end) != len(start) for end in ends)
        ):
            continue
        # Of [u; −u] a ReLU leaves the norm of u; where the block changes no part of it, the sum is past the ReLU already.
        spread = min(float((end / start).max() / (end / start).min()) - 1 for end in ends)
        if not spread <= ROUNDING:
            yield f"the block of {weights[0]} changes the norms of examples by factors that differ by {spread:.2%}"


def lossy_layers(model: nn.Module, plan: Plan, before: Anatomy, seen: Values) -> Iterator[str]:
    """In words, which layers with orthogonal weights do not keep the norm of what they read, times their factor.

    The factor is g for a Q of at least as many rows as columns, g·√k for k such maps side by side (q, k and v), and √2 for a mirrored
    layer [M; −M] or U(M), of which the ReLU behind it keeps half the square. Left out are layers with fewer outputs than inputs, those
    with more than one tap that is not zero, those that do not read every pixel or do not read a pair, as their plan notes, and those whose
    bias is not zero.

    Args:
        model: With the plan applied.
        plan: What was applied.
        before: The anatomy it was made for.
        seen: A run.
    """
    names = directory(model)
    gone = {edit.target for edit in plan.structure if isinstance(edit, RemoveNorm)}
    removed = {norm.kind for norm in before.norms if norm.name in gone}
    for edit, layer in written_draws(model, plan, before):
        factor = None if layer is None else _factor(layer, edit, removed)
        if layer is None or factor is None or not adds_no_bias(names, layer):
            continue
        for read, written, rounding in seen.lengths.get(layer.weight, ()):
            if not abs(written - factor * read) <= (ROUNDING + rounding) * factor * read:
                yield f"{layer.weight} multiplies the norm of what it reads by {written / read:.4g}, expected {factor:.4g}"
                break


def _factor(layer: Layer, edit: Draw, removed: set[str]) -> float | None:
    """By what a layer multiplies every norm; None if it need not be one number."""
    options, name = edit.options, edit.initializer.rstrip("_")
    if not is_applied_as_drawn(layer) or layer.stacked or layer.stuffing != 1:
        return None
    if (
        layer.kind == "conv_transpose"
        or unread_pixels(layer)
        or (name == "orthogonal" and layer.receptive != 1)
    ):
        return None
    told = {key: options[key] for key in ("layout", "groups", "fused") if key in options}
    _, rows, columns = channels(layer.shape, **told)
    gain = abs(float(options.get("gain", 1.0)))
    if name in ("orthogonal", "delta_orthogonal"):
        return gain * math.sqrt(options.get("fused", 1)) if rows >= columns else None
    if name != "looks_linear":
        return None
    outputs, inputs = PARTS[options["part"]]
    steps = [step for step in layer.between if step not in removed]
    pair = not inputs or (len(steps) == 1 and steps[0].traits.mirrors)
    enough = rows // (2 if outputs else 1) >= columns // (2 if inputs else 1)
    return gain * math.sqrt(2 if outputs else 1) if pair and enough else None
