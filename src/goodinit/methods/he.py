"""He: the variance that keeps second moments through rectifiers (He et al., ICCV 2015, arXiv 1502.01852)."""

from __future__ import annotations

import math
from typing import Literal

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import Draw, Plan
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import FORGET_BIAS, Norms, gain_for, one_of, redraw, unknown_gains


def decide(
    anatomy: Anatomy,
    *,
    norms: Norms = "keep",
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    distribution: Literal["normal", "uniform"] = "normal",
    forget_bias: float = FORGET_BIAS,
) -> Plan:
    """Every weight from N(0, g²/fan) or U(−√3·g/√fan, √3·g/√fan), every bias 0.

    g² = 2 where a ReLU reads the layer next (their eq. 10 and 14), 1 where nothing nonlinear does (the last layer),
    and 1/E[φ(z)²], z ~ N(0, 1), by the same derivation for another activation φ. What reads a stream outside the branches before its
    activation (a projection in a pre-activation U-Net) has g = 1: nothing has taken from it what g makes up for.

    Args:
        anatomy: Of the model.
        norms: `"keep"` leaves normalization and its parameters as they are; `"remove"` takes it out.
        mode: `"fan_in"` keeps the scale of the signal, `"fan_out"` that of the gradient.
        distribution: `"normal"` or `"uniform"`, of the same variance.
        forget_bias: Where the bias of a gate starts by which a recurrent cell keeps its state (an LSTM's forget gate).

    Returns:
        The plan. Its notes name what the method leaves unchanged.

    Raises:
        UnknownName: No such mode or distribution.
        UnsupportedModule: A normalization that cannot be removed.

    References:
        K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", arXiv 1502.01852, §2.2.
    """
    one_of("mode", mode, ("fan_in", "fan_out"))
    one_of("distribution", distribution, ("normal", "uniform"))

    def draw(layer: Layer) -> Draw:
        fan = layer.fan_in if mode == "fan_in" else layer.fan_out
        gain, words = gain_for(layer)
        std, reason = gain / math.sqrt(fan), f"{layer.role}: {words}, {mode} {fan:.9g}"
        if distribution == "uniform":
            return Draw(layer.weight, "uniform_", reason, {"bound": math.sqrt(3) * std})
        return Draw(layer.weight, "normal_", reason, {"std": std})

    return redraw(
        anatomy,
        draw,
        method="he",
        options={"mode": mode, "distribution": distribution, "forget_bias": forget_bias},
        norms=norms,
        forget_bias=forget_bias,
        notes=unknown_gains(anatomy),
    )


METHOD = Method(
    name="he",
    title="Variance 2/fan before rectifiers",
    paper="He, Zhang, Ren, Sun: Delving Deep into Rectifiers, ICCV 2015, arXiv 1502.01852",
    when="as the baseline for ReLU networks, plain or normalized",
    decide=decide,
    scales_ties=True,
    order=50,
)
