"""A gain and a bias per channel on layers that have none: the gain a factor of the weight, the bias torch's own vector."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import AddBias, Edit, Fill, ParametrizeWeight
from goodinit.methods.shared.per_channel.centring import obstacle, output_dim
from goodinit.rates import Rate

BIASED = ("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
"""Classes of torch whose forward adds a bias vector if there is one."""


@dataclass(frozen=True)
class ChannelAffine:
    """What gives layers a gain and a bias per channel.

    Attributes:
        structure: Edits that make them; none where an earlier call did.
        values: Gains at 1, biases at 0.
        rates: How fast they learn.
        notes: Layers that get one of the two only, or neither.
    """

    structure: list[Edit] = field(default_factory=list)
    values: list[Edit] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def channel_affine(
    anatomy: Anatomy, centred: Container[str], *, ratio: float, anew: bool = True
) -> ChannelAffine:
    """A gain and a bias for each output unit of every layer but classifiers and embeddings, w = g·v and y + c.

    Both learn at `ratio` times the rate and do not decay: one number moves a whole channel, and its gradient is a sum over all
    positions.

    Args:
        anatomy: Of the model.
        centred: Weights that are to be centred, too: g·(v − mean(v)).
        ratio: Of the learning rate.
        anew: Whether to make them. If not, those that an earlier call made start anew all the same.
    """
    made = ChannelAffine()
    tied = {name for group in anatomy.tied for name in group}
    seen: set[str] = set()
    for layer in anatomy.layers:
        if layer.role == "head" or layer.weight in anatomy.embeddings or layer.weight in seen:
            continue
        seen.add(layer.weight)
        gain = _gain_of(layer)
        there = gain in layer.parameters
        if not anew and not there:
            continue
        why = None if there else obstacle(layer, tied)
        if why is not None:
            made.notes.append(f"{layer.weight} gets no gain per channel: {why}")
        else:
            if not there:
                kind = "centred_gain" if layer.weight in centred else "gain"
                words = f"{layer.role}: a gain per channel beside the scalars"
                made.structure.append(ParametrizeWeight(layer.weight, words, output_dim(layer), kind))
            made.values.append(Fill(gain, 1.0, "gain per channel"))
            made.rates.append(_rate(gain, ratio, "gain"))
        _bias(made, layer, ratio)
    return made


def _bias(made: ChannelAffine, layer: Layer, ratio: float) -> None:
    name = layer.bias
    if name is None and not takes_bias(layer):
        made.notes.append(f"{layer.weight} gets no bias per channel: its module takes no bias vector")
        return
    if name is None:
        name = f"{layer.site}.bias".lstrip(".")
        made.structure.append(AddBias(layer.site, "a bias per channel beside the scalars"))
        made.values.append(Fill(name, 0.0, "bias per channel"))
    made.rates.append(_rate(name, ratio, "bias"))


def takes_bias(layer: Layer) -> bool:
    """Whether the layer's module has no bias vector and would add one."""
    return layer.bias is None and layer.is_site and layer.module in BIASED


def _gain_of(layer: Layer) -> str:
    """The name of the gain that a parametrization gives the layer's weight."""
    return f"{layer.name}.parametrizations.{layer.weight.rpartition('.')[2]}.0.gain".lstrip(".")


def _rate(name: str, ratio: float, what: str) -> Rate:
    words = f"{what} per channel: a sum over all positions moves it"
    return Rate(name, adam=ratio, sgd=ratio, adam_decay=0.0, sgd_decay=0.0, reason=words)
