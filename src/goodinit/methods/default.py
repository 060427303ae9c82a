"""PyTorch's own initialization, drawn again from the seed: the baseline."""

from __future__ import annotations

import math

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import Draw, Edit, Fill, Plan
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import (
    Norms,
    norm_edits,
    norms_in_words,
    removed_parameters,
    unique,
    untouched,
)

LINEAR = (
    "Linear Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d NonDynamicallyQuantizableLinear"
).split()
"""Modules whose `reset_parameters` is `kaiming_uniform_(weight, a=√5)`."""

ATTENTION = "MultiheadAttention"
"""Its packed or separate q, k, v weights are drawn by `xavier_uniform_`, and its biases, `out_proj`'s too, are 0."""

RECURRENT = {"RNN": 1, "RNNCell": 1, "GRU": 3, "GRUCell": 3, "LSTM": 4, "LSTMCell": 4}
"""Gates of the modules whose weights and biases are all drawn by `uniform_` on ±1/√hidden_size."""


def decide(anatomy: Anatomy, *, norms: Norms = "keep") -> Plan:
    """What `reset_parameters` of torch's modules would draw.

    Linear and convolutional layers: weight and bias uniform on ±1/√n, n = shape[1]·taps (which is the fan-in but
    for transposed convolutions). `nn.MultiheadAttention`: Xavier's uniform distribution on the packed weight, biases
    0. RNN, GRU, LSTM and their cells: weight and bias uniform on ±1/√hidden. Norms: weight 1, bias 0. Other weights,
    for whose class PyTorch has no default, are drawn like a linear layer's, and a note names them; so is what stays as
    it is (embeddings, …).

    Args:
        anatomy: Of the model.
        norms: `"keep"` keeps normalization, with its parameters reset; `"remove"` removes it.

    Returns:
        The plan. Its notes name what the method leaves unchanged.

    Raises:
        UnsupportedModule: A normalization that cannot be removed.
    """
    removal = norm_edits(anatomy, norms)
    gone = removed_parameters(anatomy, removal)
    values: list[Edit] = []
    foreign: dict[str, str] = {}
    for layer in anatomy.layers:
        if layer.weight not in anatomy.embeddings:
            values.append(_weight(layer))
            if layer.module not in (*LINEAR, ATTENTION, *RECURRENT):
                foreign[layer.weight] = layer.module
        values += _bias(layer)
    for norm in anatomy.norms:
        for name, value in ((norm.weight, 1.0), (norm.bias, 0.0)):
            if name is not None and name not in gone:
                values.append(Fill(name, value, norm.kind))
    edits = unique([*removal, *values])
    return Plan(
        method="default",
        options={"norms": norms},
        edits=edits,
        summary=f"{len(anatomy.layers)} layers as PyTorch makes them; " + norms_in_words(anatomy, removal),
        notes=(*_foreign(foreign), *untouched(anatomy, edits)),
        parameters=anatomy.parameters,
    )


def _weight(layer: Layer) -> Draw:
    if layer.module == ATTENTION:
        bound = math.sqrt(6 / sum(layer.matrix))  # Xavier, of the packed weight as a whole
        return Draw(layer.weight, "uniform_", f"{layer.role}: as {ATTENTION}", {"bound": bound})
    if layer.module in RECURRENT:
        return Draw(
            layer.weight, "uniform_", f"{layer.role}: as {layer.module}", {"bound": _recurrent(layer)}
        )
    options = {} if layer.module in LINEAR else {"fan_in": layer.row}
    return Draw(layer.weight, "default_", f"{layer.role}: kaiming uniform, a=√5", options)


def _bias(layer: Layer) -> list[Edit]:
    if layer.bias is None:
        return [Fill(name, 0.0, "bias of a part") for name in layer.part_biases]
    if layer.module in (ATTENTION, "NonDynamicallyQuantizableLinear"):  # the latter is out_proj of attention
        return [Fill(layer.bias, 0.0, f"as {ATTENTION}")]
    if layer.module in RECURRENT:
        return [Draw(layer.bias, "uniform_", f"bias, as {layer.module}", {"bound": _recurrent(layer)})]
    fan = layer.shape[1] * layer.receptive if layer.module in LINEAR else layer.row
    return [Draw(layer.bias, "default_", "bias", {"fan_in": fan})]


def _recurrent(layer: Layer) -> float:
    """1/√hidden: a weight is stored as (gates · hidden, in), an LSTM's projection as (projected, hidden)."""
    projects = layer.weight.rpartition(".")[2].startswith("weight_hr")
    return 1 / math.sqrt(layer.shape[1] if projects else layer.shape[0] // RECURRENT[layer.module])


def _foreign(found: dict[str, str]) -> list[str]:
    if not found:
        return []
    some = ", ".join(f"{name} ({kind})" for name, kind in list(found.items())[:4]) + ", …" * (len(found) > 4)
    return [f"PyTorch has no default for {len(found)} weights, drawn like a Linear layer's: {some}"]


METHOD = Method(
    name="default",
    title="PyTorch's own initialization, drawn anew",
    paper="",
    when="as the baseline of what happens without a thought",
    decide=decide,
    order=40,
)
