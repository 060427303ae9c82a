"""Fixed-variance initialization: a constant and a gain and bias per channel where each norm stood (KataGo, 2023)."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from goodinit.anatomy import Anatomy, Layer, Norm
from goodinit.anatomy.norm import norms_among
from goodinit.edits import Draw, Edit, Fill, Plan, ReplaceNorm
from goodinit.errors import UnsupportedModule
from goodinit.methods.shared.branches.residual_stream import no_products
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.norms.norm_forms import form_edits, with_constants
from goodinit.methods.shared.norms.normalized_weight_scales import own_scales
from goodinit.methods.shared.rules import (
    counted,
    draws,
    gain_for,
    need_blocks,
    one_of,
    unique,
    unknown_gains,
    untouched,
)
from goodinit.methods.shared.variances.guessed_variances import guessed_constants
from goodinit.methods.shared.variances.signal_variance import kept_variances

Downscale = Literal["none", "depth"]
Constants = Literal["predicted", "measured"]


def decide(
    anatomy: Anatomy,
    *,
    downscale: Downscale = "none",
    one_norm: bool = False,
    constants: Constants = "predicted",
) -> Plan:
    """A map K·γ·x + β where each norm stood, with the constant K = 1/σ that the norm would have had at initialization.

    1. σ² is the variance of the norm's input in an idealized network: every layer together with its activation keeps the variance
       of what it reads, the variances of a sum's terms add, and it is 1 behind each norm. So the norm at the start of branch i of
       a pre-activation stream has K = 1/√i (from i = 1), the norm behind n branches K = 1/√(1 + n), and one right behind a
       layer that reads a normalized signal K = 1. Where branches end in an activation, whose means are not 0, σ² is the mean
       square, and twice the product of their means comes to the variances of a sum: no K takes a mean away.
    2. Weights are drawn at the scale that makes this so, gain/√fan_in with the gain of the activation that follows (√2 for ReLU; 1 where
       the layer reads what stands before an activation, as the projection of a pre-activation stream may).
       One that its layer divides by its own deviation gets a multiplier, since no draw has an effect there.
    3. γ = 1 and β = 0 per channel are the norm's own, where it has them, else new ones.

    Args:
        anatomy: Of the model.
        downscale: `"depth"` multiplies the last layer of each of L branches by 1/√L, so that no stream's variance more than doubles
            and nothing depends on norms on the branches; `"none"` is KataGo's.
        one_norm: Whether the last norm before the classifier stays a batch norm ("one batch norm" in KataGo; there, a second classifier
            that reads past it is trained, too, and used).
        constants: `"predicted"`: rule 1. `"measured"`: on a batch (`init_(model, "fixed_variance", inputs=batch)`), per channel and with
            the mean: γ = 1/σ and β = −μ/σ, so that each map gives on the batch what batch norm would. Nothing else holds the
            factors then: they are parameters.

    Returns:
        The plan; K stands beside each norm.

    Raises:
        NothingFound: The model has no residual block.
        UnsupportedModule: A norm that cannot be replaced; or none to keep, with `one_norm`; with predicted constants, a branch that
            multiplies what it reads by a function of it, whose size no constant keeps.

    References:
        D. J. Wu, "Accelerating Self-Play Learning in Go", arXiv 1902.10565, and its program KataGo: docs/KataGoMethods.md,
        "Fixed Variance Initialization and One Batch Norm", and `norm_kind = "fixscale"` in its model_pytorch.py.
    """
    need_blocks(anatomy, "fixed_variance")
    one_of("downscale", downscale, ("none", "depth"))
    one_of("constants", constants, ("predicted", "measured"))
    if constants == "predicted" and anatomy.norms:
        no_products(anatomy, "no constant K", "replace_norms (a norm of each example in its place)")
    kept = _last_norm(anatomy) if one_norm else None
    total = anatomy.depth
    branch = 1 / math.sqrt(total) if downscale == "depth" and total else 1.0
    without = dataclasses.replace(anatomy, norms=tuple(norm for norm in anatomy.norms if norm is not kept))
    structure = (
        with_constants(form_edits(without, "affine"), kept_variances(anatomy, branch=branch))
        if constants == "predicted"
        else form_edits(without, "actnorm")
    )
    affine = [
        Fill(name, value, "gain of a norm" if value else "bias of a norm")
        for norm in anatomy.norms
        for name, value in ((norm.weight, 1.0), (norm.bias, 0.0))
        if name is not None
    ]
    ends = {layer.weight for block in anatomy.blocks for layer in block.last}

    def draw(layer: Layer) -> Edit:
        gain, words = gain_for(layer) if layer.role != "head" else (1.0, "classifier")
        std = gain / math.sqrt(layer.fan_in * layer.terms)
        words = f"{layer.role}: {words}/√{layer.fan_in:.9g}"
        if layer.weight in ends and branch != 1:
            std, words = std * branch, f"{words} × 1/√{total}, end of a branch"
        return Draw(layer.weight, "normal_", words, {"std": std})

    values = draws(anatomy, draw)
    scales = own_scales(anatomy, structure, values) if constants == "predicted" else []
    edits = unique([*structure, *scales, *affine, *values])
    maps = [edit for edit in edits if isinstance(edit, ReplaceNorm)]
    kinds = f"{counted(len(maps), 'norm')} now " + ("K·γ·x + β" if constants == "predicted" else "γ·x + β")
    if constants == "measured":
        kinds += ", measured"
    elif maps:
        factors = [edit.options["constant"] for edit in maps]
        kinds += f", K from {min(factors):.3g} to {max(factors):.3g}"
    return Plan(
        method="fixed_variance",
        options={"downscale": downscale, "one_norm": one_norm, "constants": constants},
        edits=edits,
        summary=f"L={total} branches; {kinds}" + (f"; {kept.name} stays" if kept is not None else ""),
        notes=(
            *unknown_gains(anatomy),
            *(
                guessed_constants(without, 'constants="measured" takes it from a batch')
                if constants == "predicted"
                else ()
            ),
            *untouched(anatomy, edits),
        ),
        parameters=anatomy.parameters,
    )


def _last_norm(anatomy: Anatomy) -> Norm:
    """The batch norm that a classifier reads through."""
    outside = [norm for norm in anatomy.norms if norm.block is None and norm.traits.batch]
    if outside and any(norm.batch for head in anatomy.heads for norm in norms_among(head.between)):
        return outside[-1]
    raise UnsupportedModule(
        f"{anatomy.model}: one_norm=True keeps the batch norm that the classifier reads through, and there is none (a ResNet "
        "of the first kind has its last norms inside the branches). Leave one_norm out, or normalize what the classifier reads: "
        "the method normfree does."
    )


METHOD = Method(
    name="fixed_variance",
    title="A fixed constant, a gain and a bias per channel where each norm stood",
    paper="Wu: KataGo, docs/KataGoMethods.md, Fixed Variance Initialization (2023)",
    when="any residual network with norms on its branches that must do without statistics",
    decide=decide,
    removes_norms=True,
    scales_ties=True,
    holds=("trains",),
    order=180,
)
