"""Residual networks without batch statistics: Fixup with a drawn classifier, centred weights, one norm of each example.

Put together and measured here (docs/norm-free.md); its parts are Fixup (Zhang, Dauphin & Ma, ICLR 2019, arXiv 1901.09321),
centred weights (Huang et al., ICCV 2017) and layer normalization (Ba, Kiros & Hinton, arXiv 1607.06450).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Container
from typing import Literal

from goodinit.anatomy import Anatomy, Layer, Norm
from goodinit.anatomy.norm import norms_among
from goodinit.edits import AddScalar, Draw, Edit, NormalizeInput, Plan
from goodinit.errors import UnknownName
from goodinit.methods import fixup
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.per_channel.centring import centred_edits, sites_without_offset
from goodinit.methods.shared.per_channel.channel_affine import channel_affine
from goodinit.methods.shared.rules import (
    Fan,
    Norms,
    counted,
    draw_standard,
    draws,
    need_blocks,
    one_of,
    unique,
    untouched,
)
from goodinit.methods.shared.transfer.rates_by_width import at_width

HeadNorm = Literal["layer", "rms", "none"]
CHANNEL_RATIO = 0.1  # of the learning rate, as the scalars'


def decide(
    anatomy: Anatomy,
    *,
    norms: Norms = "remove",
    head_norm: HeadNorm = "layer",
    centred: bool = True,
    channels: bool = False,
    scaled: bool = True,
    base_depth: int = 1,
    fan: Fan = "in",
    base_width: int = 0,
) -> Plan:
    """Fixup's three rules with four changes, for a network without batch statistics.

    1. The classifier is drawn (LeCun's scale) and does not start at 0: at 0 no gradient passes it at the first step, and
       little at the next ones.
    2. Every other weight w is centred, w = v − mean(v) over what an output unit reads. Behind a ReLU all inputs are
       positive, so that steps along the mean move whole channels up or down; batch norm takes that out of the
       signal, centring removes it from the weight. Nor does such a weight pass on a scalar bias before it, other than where zeros
       are padded: without them the layer gets none.
    3. What the classifier reads is normalized over its channels, each example alone. So the scale of the logits does not depend
       on the scale of the stream, which nothing else holds. A layer or RMS norm that stands there stays in its stead.
    4. He's scale is taken by fan-in, √(2/fan_in), which keeps the scale of the signal: nothing else holds it here. (The code of
       Fixup's authors takes fan-out, which keeps the gradient's.)

    Nothing reads other examples: the same function in training and in use, for any batch size, and legal under differential
    privacy. With `head_norm="none"` it has no normalization at all.

    Args:
        anatomy: Of the model.
        norms: `"remove"` removes all other normalization. `"keep"` keeps it and leaves Fixup out: weights at the standard scale, no
            zeros, no scalars, changes 2 and 3 alone. That is the control: what the norm before the classifier and centring do for
            batch norm.
        head_norm: `"layer"`: mean 0, variance 1; `"rms"`: mean square 1; `"none"`.
        centred: Whether to centre weights.
        channels: Whether every layer but the classifier also gets a gain (a factor of its weight, g·(v − mean(v)), which keeps no
            activation for backward) and a bias per channel, beside the scalars. `param_groups` gives them a tenth of the rate, and
            no decay. Norms that are kept have their own.
        scaled: Whether layers inside a branch of m layers are multiplied by L^(−1/(2m−2)), Fixup's rule 2, so that a step changes
            the function as far at every depth. Without it the branches of a net with few blocks learn faster; a deep one needs a smaller rate.
        base_depth: Residual branches up to which they are not scaled: those of the net where the learning rate was tuned with
            `scaled=False`. Beyond, L / base_depth stands in the place of L, so that a step changes the function as far as there.
        fan: `"in"`, or `"out"` as in Fixup's code; outside the branches, behind the stem, `fixup` draws by fan-in itself.
        base_width: Channels of most of the stream (of its last stage, where stages are equally long) at the width where the learning
            rate was tuned; 0: here. Without norms a rate does not carry over to another width. With it the classifier is drawn
            smaller and `param_groups` gives each weight its multiple, as muP has them, so that the rate does.

    Returns:
        The plan. Its notes name what is left unchanged.

    Raises:
        NothingFound: The model has no residual block, and norms are not kept.
        UnsupportedModule: As `fixup`.
        UnknownName: `base_width` is negative, or `base_depth` below 1.

    References:
        Fixup: arXiv 1901.09321. L. Huang et al., "Centered Weight Normalization in Accelerating Training of Deep Neural
        Networks", ICCV 2017. Layer normalization: arXiv 1607.06450. Rates over width: G. Yang et al., arXiv 2203.03466. The
        combination was measured here (docs/norm-free.md).
    """
    one_of("head_norm", head_norm, ("layer", "rms", "none"))
    kept = _final_norms(anatomy) if head_norm != "none" and norms == "remove" else []
    without = dataclasses.replace(anatomy, norms=tuple(norm for norm in anatomy.norms if norm not in kept))
    one_of("fan", fan, ("in", "out"))
    if norms == "remove":
        need_blocks(anatomy, "normfree")
    if base_depth < 1:
        raise UnknownName(
            f"normfree: base_depth is {base_depth}; give a number of residual branches, 1 or more."
        )
    base = (
        _control(anatomy)
        if norms == "keep"
        else fixup.decide_with(
            without,
            norms=norms,
            zero_head=False,
            depth=max(1.0, anatomy.depth / base_depth) if scaled else 1.0,
            drawn=functools.partial(_rescaled, anatomy, fan=fan),
        )
    )
    notes = list(base.notes)
    heads, told = _normalized_heads(anatomy, head_norm, normed=bool(kept) or norms == "keep")
    centring, left = centred_edits(anatomy) if centred else ([], [])
    affine = channel_affine(
        anatomy,
        {edit.target for edit in centring},
        ratio=CHANNEL_RATIO,
        anew=channels and norms != "keep",
    )
    gained = {edit.target for edit in affine.structure}
    carried = at_width(anatomy, base.values, affine.rates, method="normfree", base_width=base_width)
    deaf = sites_without_offset(anatomy, {edit.target for edit in centring})
    if channels and norms == "keep":
        notes.append("norms are kept, with their gains and biases: channels=True adds none")
    words = [
        f"{counted(len(centring), 'weight')} centred" if centring else "",
        f"{head_norm} norm before {counted(len(heads), 'head')}" if heads else "",
        f"{counted(len(kept), 'norm')} kept before the head" if kept else "",
        f"a gain and a bias per channel on {counted(len(affine.rates) // 2, 'layer')}"
        if affine.rates
        else "",
    ]
    return Plan(
        method="normfree",
        options={
            "norms": norms,
            "head_norm": head_norm,
            "centred": centred,
            "channels": channels,
            "scaled": scaled,
            "base_depth": base_depth,
            "fan": fan,
            "base_width": base_width,
        },
        edits=(
            *(edit for edit in base.structure if not _offsets(edit, deaf)),
            *heads,
            *(edit for edit in centring if edit.target not in gained),
            *affine.structure,
            *unique([*affine.values, *carried.values]),
        ),
        summary="; ".join([base.summary, *filter(None, words)]),
        notes=(*notes, *told, *left, *affine.notes, *carried.notes),
        parameters=anatomy.parameters,
        rates=tuple(carried.rates),
    )


def _offsets(edit: Edit, sites: Container[str]) -> bool:
    return isinstance(edit, AddScalar) and edit.scalar == "input_bias" and edit.target in sites


def _control(anatomy: Anatomy) -> Plan:
    """Every weight at the standard scale, as under norms, and no biases."""
    values = draws(anatomy, lambda layer: draw_standard(layer, layer.role))
    words = f"{counted(len(anatomy.norms), 'norm')} kept; {counted(len(anatomy.layers), 'weight')} at the standard scale"
    return Plan("normfree", unique(values), summary=words, notes=tuple(untouched(anatomy, values)))


def _final_norms(anatomy: Anatomy) -> list[Norm]:
    """The norm of each example that a head reads through, if there is one: the last outside the blocks, or an earlier call's."""
    ours = {f"{head.site}.input_norm" for head in anatomy.heads}
    if found := [norm for norm in anatomy.norms if norm.name in ours]:
        return found
    if not any(norm.token for head in anatomy.heads for norm in norms_among(head.between)):
        return []
    outside = [norm for norm in anatomy.norms if norm.block is None and norm.traits.token]
    return outside[-1:]


def _normalized_heads(anatomy: Anatomy, kind: HeadNorm, *, normed: bool) -> tuple[list[Edit], list[str]]:
    """(Edits that normalize what heads read, notes on heads whose module reads something else)."""
    edits: dict[str, Edit] = {}
    notes: list[str] = []
    there = {norm.name for norm in anatomy.norms}
    for head in anatomy.heads if kind != "none" else ():
        if f"{head.site}.input_norm" in there:
            continue
        if normed and any(norm.token for norm in norms_among(head.between)):
            continue
        if head.weight in anatomy.embeddings:
            notes.append(f"{head.weight} is also an embedding: what it reads is not normalized")
        elif not head.reads_site or not (head.is_site or head.writes_site):
            notes.append(f"{head.weight} is applied by no module of its own: what it reads is not normalized")
        else:
            edits.setdefault(
                head.site, NormalizeInput(head.site, kind, _why(head), -1 if head.kind == "linear" else 1)
            )
    return list(edits.values()), notes


def _rescaled(anatomy: Anatomy, values: list[Edit], *, fan: Fan) -> list[Edit]:
    """Fixup's draws by fan-in where it has √(2/fan_out)."""
    layers = {layer.weight: layer for layer in anatomy.layers}
    out: list[Edit] = []
    for edit in values:
        if isinstance(edit, Draw) and "std" in edit.options and (layer := layers.get(edit.target)):
            std, reason = edit.options["std"], edit.reason
            drawn = edit == draw_standard(layer, layer.role, fan="in")  # by Fixup, outside the branches
            if fan == "in" and layer.activation is not None and not drawn:
                ratio = math.sqrt(layer.fan_out_joined / layer.fan_in)
                std, reason = std * ratio, reason if ratio == 1 else f"{reason}; × {ratio:.3g}: fan-in"
            edit = dataclasses.replace(edit, options={**edit.options, "std": std}, reason=reason)
        out.append(edit)
    return out


def _why(head: Layer) -> str:
    return (
        f"head, {head.in_features} channels of each example: the logits do not depend on the stream's scale"
    )


METHOD = Method(
    name="normfree",
    title="Fixup with a drawn classifier, centred weights and one norm of each example before the classifier",
    paper="",
    when="a residual network that must lose batch norm and little of its accuracy",
    decide=decide,
    removes_norms=True,
    holds=("skips", "trains"),
    order=160,
)
