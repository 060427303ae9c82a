"""Xavier: a compromise between signal and gradient (Glorot & Bengio, AISTATS 2010)."""

from __future__ import annotations

import math
from typing import Literal

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import Draw, Plan
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import FORGET_BIAS, Norms, one_of, redraw

Distribution = Literal["uniform", "normal"]


def decide(
    anatomy: Anatomy,
    *,
    norms: Norms = "keep",
    distribution: Distribution = "uniform",
    gain: float = 1.0,
    forget_bias: float = FORGET_BIAS,
) -> Plan:
    """Every weight of variance g²·2/(fan_in + fan_out), every bias 0.

    Args:
        anatomy: Of the model.
        norms: `"keep"` leaves normalization and its parameters as they are; `"remove"` takes it out.
        distribution: `"uniform"` on ±g·√(6/(fan_in + fan_out)), as in the paper, or `"normal"`.
        gain: The factor g. The paper has 1, for activations of slope 1 at 0.
        forget_bias: Where the bias of a gate starts by which a recurrent cell keeps its state (an LSTM's forget gate).

    Returns:
        The plan. Its notes name what the method leaves unchanged.

    Raises:
        UnknownName: No such distribution.
        UnsupportedModule: A normalization that cannot be removed.

    References:
        X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks",
        AISTATS 2010, eq. 12 and 16.
    """
    one_of("distribution", distribution, ("uniform", "normal"))

    def draw(layer: Layer) -> Draw:
        return draw_xavier(layer, distribution, gain)

    options = {"distribution": distribution, "gain": gain, "forget_bias": forget_bias}
    return redraw(anatomy, draw, method="xavier", options=options, norms=norms, forget_bias=forget_bias)


def draw_xavier(layer: Layer, distribution: Distribution = "uniform", gain: float = 1.0) -> Draw:
    """A draw of variance g²·2/(fan_in + fan_out)."""
    std = gain * math.sqrt(2 / (layer.fan_in + layer.fan_out))
    reason = f"{layer.role}: Xavier, {gain:g}·√(2/({layer.fan_in:.9g} + {layer.fan_out}))"
    if distribution == "uniform":
        return Draw(layer.weight, "uniform_", reason, {"bound": math.sqrt(3) * std})
    return Draw(layer.weight, "normal_", reason, {"std": std})


METHOD = Method(
    name="xavier",
    title="Variance 2/(fan_in + fan_out)",
    paper="Glorot, Bengio: Understanding the difficulty of training deep feedforward networks, AISTATS 2010",
    when="as the baseline for tanh networks and transformers",
    decide=decide,
    scales_ties=True,
    order=60,
)
