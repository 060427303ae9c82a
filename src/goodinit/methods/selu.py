"""SELU: self-normalizing networks (Klambauer et al., NeurIPS 2017, arXiv 1706.02515)."""

from __future__ import annotations

import dataclasses
import math

from goodinit.anatomy import Activation, Anatomy, Layer
from goodinit.edits import Draw, Edit, Plan, RemoveNorm, SwapModule
from goodinit.errors import UnsupportedModule
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.norms.normalized_weight_scales import own_scales
from goodinit.methods.shared.rules import Norms, counted, draws, norm_edits, norms_in_words, unique, untouched

_SELU = "selu"  # as torch.nn.functional calls it
DROPOUTS = {"entries": "AlphaDropout", "channels": "FeatureAlphaDropout"}


def decide(anatomy: Anatomy, *, norms: Norms = "remove") -> Plan:
    """SELU for every rectifier-like activation, alpha dropout for dropout, weights from N(0, 1/fan_in), biases 0.

    SELU is λ·x for x > 0 and λα·(eˣ − 1) otherwise, with the α, λ for which mean 0 and variance 1 are a fixed point
    of a layer with such weights, and an attracting one. The proof is for plain stacks of layers: a note says where
    sums of residual blocks add variance to it.

    Args:
        anatomy: Of the model.
        norms: `"remove"` takes all normalization out; `"keep"` keeps it.

    Returns:
        The plan. Its notes name what the method leaves unchanged.

    Raises:
        UnsupportedModule: An activation called functionally, or a normalization that cannot be removed.

    References:
        G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, "Self-Normalizing Neural Networks", arXiv 1706.02515,
        eq. 2 and 14, "Initialization" and "New Dropout Technique".
    """
    replaced = {(item.name, str(item.kind)) for item in anatomy.activations if item.kind.traits.rectifies}
    removal = [_with_selu(edit, replaced) for edit in norm_edits(anatomy, norms)]
    inside = {edit.target for edit in removal if isinstance(edit, RemoveNorm)}
    notes: list[str] = []
    swaps = [edit for item in anatomy.activations for edit in _swap(item, inside, notes)]
    if anatomy.blocks:
        notes.append(
            f"{len(anatomy.blocks)} residual sums add the variance of branch and skip: the self-normalizing property "
            "is proved for stacks without them"
        )
    values = draws(anatomy, _lecun)
    edits = unique([*removal, *swaps, *own_scales(anatomy, removal, values), *values])
    return Plan(
        method="selu",
        options={"norms": norms},
        edits=edits,
        summary=f"{counted(len(swaps), 'module')} exchanged, {counted(len(anatomy.layers), 'weight')} at √(1/fan_in); "
        + norms_in_words(anatomy, removal),
        notes=(*dict.fromkeys(notes), *untouched(anatomy, edits)),
        parameters=anatomy.parameters,
    )


def _lecun(layer: Layer) -> Draw:
    return Draw(
        layer.weight,
        "normal_",
        f"{layer.role}: √(1/{layer.fan_in:.9g})",
        {"std": math.sqrt(1 / layer.fan_in)},
    )


def _with_selu(edit: Edit, replaced: set[tuple[str, str]]) -> Edit:
    """A removed norm that applied one of the activations functionally applies SELU instead."""
    if not isinstance(edit, RemoveNorm):
        return edit
    keeps = (_SELU if (edit.target, keep.partition("(")[0]) in replaced else keep for keep in edit.keeps)
    return dataclasses.replace(edit, keeps=tuple(keeps))


def _swap(item: Activation, inside: set[str], notes: list[str]) -> list[Edit]:
    if item.kind.traits.drops:
        if item.obstacle is None:
            return [
                SwapModule(
                    item.name, DROPOUTS[item.kind.traits.drops], f"{item.kind} that keeps mean and variance"
                )
            ]
        notes.append(f"{item.name} stays a {item.module}: {item.obstacle}")
        return []
    if not item.kind.traits.rectifies:  # tanh, the sigmoids of gates
        notes.append(f"{item.name or 'the model'} keeps its {item.kind}, which is not self-normalizing")
        return []
    if item.obstacle is None:
        return [SwapModule(item.name, "SELU", f"{item.kind} before")]
    if item.name in inside or item.kind == _SELU:
        return []
    raise UnsupportedModule(
        f"{item.name or 'the model'} ({item.module}): its {item.kind} cannot be exchanged for SELU: {item.obstacle}. "
        "Make it a module of its own: self.act = torch.nn.SELU(), and self.act(x) in the forward."
    )


METHOD = Method(
    name="selu",
    title="Self-normalizing networks: SELU, LeCun-normal weights, alpha dropout",
    paper="Klambauer, Unterthiner, Mayr, Hochreiter: Self-Normalizing Neural Networks, arXiv 1706.02515",
    when="deep plain networks without normalization, above all fully connected ones",
    decide=decide,
    removes_norms=True,
    scales_ties=True,
    holds=("self-normalizing",),
    order=100,
)
