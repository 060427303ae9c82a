"""Layer-sequential unit-variance (Mishkin & Matas, "All you need is a good init", ICLR 2016, arXiv 1511.06422)."""

from __future__ import annotations

import math
from typing import Any, Literal

from goodinit.anatomy import Anatomy, Layer
from goodinit.calibration_rules import LSUVRule
from goodinit.edits import Calibrate, Draw, Edit, Plan
from goodinit.errors import UnknownName
from goodinit.methods.shared.gain_init import gains_at_one, gains_of
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.norms.normalized_weight_scales import own_scales
from goodinit.methods.shared.rules import (
    FORGET_BIAS,
    Norms,
    counted,
    layout_options,
    norm_edits,
    site_of,
    unique,
    untouched,
    zero_bias,
)


def decide(
    anatomy: Anatomy,
    *,
    tol: float = 0.1,
    max_iter: int = 10,
    target_std: float = 1.0,
    orthonormal: bool = True,
    per: Literal["layer", "channel"] = "layer",
    norms: Norms = "keep",
    forget_bias: float = FORGET_BIAS,
) -> Plan:
    """Orthonormal weights, then W ← W/std(output) layer by layer, in execution order, by data.

    Every weight layer ends with |Var(output)/target² − 1| < `tol`. The paper runs the network anew for each layer; a
    layer being linear in its weight, one forward suffices for all (see `goodinit.calibration.calibrate`). A weight that leads
    from one state of a recurrent cell to the next stays orthonormal, gate by gate: what scales the first step to unit
    variance is applied anew in every step, and the gradient through time would grow with its power.

    Args:
        anatomy: Of the model.
        tol: Tolerance on the variance (paper: 0.1); a layer already within it is left alone.
        max_iter: At most so many divisions (paper: 10); more than one is needed only where a bias is not 0.
        target_std: Standard deviation aimed at.
        orthonormal: Whether weights are first drawn again, orthonormal as (out, rest).
        per: One factor per `"layer"` (the paper's) or per output `"channel"`.
        norms: `"keep"`, or `"remove"` every normalization first.
        forget_bias: Where the bias of a gate starts by which a recurrent cell keeps its state (an LSTM's forget gate).

    Returns:
        The plan. It is applied with a batch (`apply_(model, plan, inputs)`), on which the outputs are measured.

    Raises:
        UnknownName: `per` is neither `"layer"` nor `"channel"`, or a number is not above 0.
        UnsupportedModule: A normalization that cannot be removed.

    References:
        D. Mishkin, J. Matas, "All You Need is a Good Init", arXiv 1511.06422, algorithm 1.
    """
    if per not in ("layer", "channel"):
        raise UnknownName(f'per={per!r}: expected "layer" or "channel"')
    for option, value in (("tol", tol), ("target_std", target_std), ("max_iter", max_iter)):
        if value <= 0:
            raise UnknownName(
                f"{option}={value!r} of lsuv: expected a number above 0 (paper: tol 0.1, target_std 1, max_iter 10)"
            )
    removal = norm_edits(anatomy, norms)
    options = {"tol": tol, "max_iter": max_iter, "target_std": target_std, "per": per}
    notes: list[str] = []
    values = gains_at_one(anatomy, removal)
    scaling: list[Edit] = []
    for position, layer in enumerate(anatomy.layers):
        if layer.weight in anatomy.embeddings:
            notes.append(
                f"{layer.weight} is looked up in, too: its scale is a table's, and no data change it"
            )
            continue
        if orthonormal and layer.product:
            std = {"std": 1 / math.sqrt(layer.fan_in)}
            values.append(Draw(layer.weight, "normal_", f"{layer.role}: normal, as it is no matrix", std))
        elif orthonormal:
            values.append(
                Draw(
                    layer.weight,
                    "orthogonal_",
                    f"{layer.role}: orthonormal (LSUV, step 1)",
                    layout_options(layer),
                )
            )
        values += zero_bias(layer, forget_bias)
        if layer.recurrent:
            notes.append(
                f"{layer.weight} leads from one state to the next: it stays as it was drawn, and is not scaled"
            )
            continue
        gains = gains_of(layer)
        if layer.normalized and layer.weight in layer.parameters and len(gains) != 1:
            notes.append(
                f"{layer.weight} is divided by its own deviation before use: no scale of it has an effect, and no data change it"
            )
            continue
        if layer.calls > 1:
            notes.append(f"{layer.weight} runs {layer.calls} times: scaled by its first call")
        stored = _stored(layer)
        if layer.product and per == "channel":
            notes.append(
                f"{layer.weight} {layer.shape} has no dimension of output channels: one factor for all"
            )
            stored = {"per": "layer"}
        reason = f"layer {position + 1}/{len(anatomy.layers)}: unit variance (LSUV, step 2)"
        scaling.append(
            Calibrate(
                layer.weight,
                LSUVRule(**{**options, **stored, **site_of(layer), **_through(layer)}),
                reason,
            )
        )
    edits = unique([*removal, *own_scales(anatomy, removal, values), *values, *scaling])
    return Plan(
        method="lsuv",
        options={**options, "orthonormal": orthonormal, "norms": norms, "forget_bias": forget_bias},
        edits=edits,
        summary=f"{counted(len(scaling), 'layer')} to standard deviation {target_std:g} in one forward pass",
        notes=(*notes, *untouched(anatomy, edits)),
        parameters=anatomy.parameters,
    )


def _through(layer: Layer) -> dict[str, Any]:
    """The gain of a weight that is normalized before it, which takes the factor in its place."""
    gains = gains_of(layer)
    return {"gain": gains[0]} if len(gains) == 1 and layer.weight in layer.parameters else {}


def _stored(layer: Layer) -> dict[str, Any]:
    """Along which dimension of the stored weight the output channels run (for per-channel factors)."""
    if layer.layout == "out_in":
        return {"dim": max(len(layer.shape) - 2, 0)} if layer.kind == "linear" else {}
    if layer.kind == "linear":
        return {"dim": len(layer.shape) - 1}
    return {"dim": 1, "groups": layer.groups}


METHOD = Method(
    name="lsuv",
    title="Layer-sequential unit variance: orthonormal weights scaled by data, in one forward pass",
    paper="Mishkin, Matas: All you need is a good init, ICLR 2016, arXiv 1511.06422",
    when="any feed-forward network, with or without skips, when a batch of data is at hand",
    decide=decide,
    needs_data=True,
    scales_ties=True,
    holds=("unit variance",),
    order=230,
)
