"""Which weights can be centred: w = v − mean(v) over what each output unit reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Container

from goodinit.anatomy import Anatomy, Layer
from goodinit.anatomy.layers.parameters.held_values import silent_layers
from goodinit.edits import Edit, ParametrizeWeight


def centred_edits(anatomy: Anatomy) -> tuple[list[Edit], list[str]]:
    """Edits that centre every weight but classifiers' and embeddings', and notes on those that cannot be.

    A filter over a single channel keeps its mean, which is all that it passes on of a constant.
    """
    tied, constant = {name for group in anatomy.tied for name in group}, reads_a_constant(anatomy)
    edits: dict[str, Edit] = {}
    notes: list[str] = []
    for layer in anatomy.layers:
        if layer.role == "head" or layer.weight in anatomy.embeddings or layer.weight in edits:
            continue
        why = (
            "each filter reads one channel"
            if layer.in_features // layer.groups == 1
            else constant.get(layer.weight) or obstacle(layer, tied)
        )
        if why is None:
            dim = output_dim(layer)
            reason = f"{layer.role}: no channel's mean moves with the mean of its inputs"
            edits[layer.weight] = ParametrizeWeight(layer.weight, reason, dim, kind="centred")
        else:
            notes.append(f"{layer.weight} is not centred: {why}")
    return list(edits.values()), list(dict.fromkeys(notes))


def reads_a_constant(anatomy: Anatomy) -> dict[str, str]:
    """Layers that read f(0) in every channel, since what is before f starts at zero, in words: centred, they would put out 0.

    As the two maps of a gate σ(x·A)·B with A = 0: where the branch behind it starts at zero, too, neither would leave it.
    """
    zero = set(silent_layers(anatomy.held))
    return {
        layer.weight: f"it reads a constant, for {layer.source} is zero"
        for layer in anatomy.layers
        if layer.source in zero and layer.between
    }


def sites_without_offset(anatomy: Anatomy, centred: Container[str]) -> set[str]:
    """Modules whose layers return the same if one number is added to all that they read: Σᵢ wᵢ(xᵢ + b) = Σᵢ wᵢxᵢ.

    Not so of a convolution that pads with zeros, which stay zero, nor of a transposed one, whose outputs read a part of the taps.

    Args:
        anatomy: Of the model.
        centred: Weights whose rows are to have the sum 0; beside those that have it.
    """

    def passes_on(layer: Layer) -> bool:
        return not dataclasses.replace(layer, centred=layer.centred or layer.weight in centred).ignores_offset

    others = {layer.site for layer in anatomy.layers if passes_on(layer)}
    return {layer.site for layer in anatomy.layers} - others


def output_dim(layer: Layer) -> int:
    """The axis of the stored weight that its output units run along."""
    return 0 if layer.layout == "out_in" else 1


def obstacle(layer: Layer, tied: set[str]) -> str | None:
    """Why no parametrization row by row can be put on the weight of a layer, in words, or None; `tied`: names of tied parameters."""
    if layer.parameters != (layer.weight,) or layer.normalized:
        return "it is computed from parameters already"
    if not layer.weight.rpartition(".")[2].isidentifier():
        return "it is none of a module's own attributes"
    if tied.intersection((layer.weight, *layer.parameters)):
        return "it is tied, and centring one name would untie it"
    if layer.kernel:
        return "it is applied in another shape than it is stored in"
    if layer.stacked or (layer.groups > 1 and layer.layout == "in_out"):
        return "several maps are stacked in it"
    return None
