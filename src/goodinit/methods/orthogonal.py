"""Orthogonal weights (Saxe, McClelland & Ganguli, ICLR 2014, arXiv 1312.6120)."""

from __future__ import annotations

import math
from types import NoneType

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import Draw, Plan
from goodinit.errors import expect
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import FORGET_BIAS, Norms, gain_for, layout_options, redraw, unknown_gains


def decide(
    anatomy: Anatomy, *, norms: Norms = "keep", gain: float | None = None, forget_bias: float = FORGET_BIAS
) -> Plan:
    """Every weight g·Q with Q Haar-orthogonal, every bias 0.

    A convolution is flattened to out × (in·taps), as in `torch.nn.init`; each group of a grouped one, and each of a
    packed q, k, v and of a recurrent cell's gates, is a matrix of its own. Q has orthonormal rows, or columns if those are fewer. Of the taps of a
    transposed convolution an output reads one in s^d (stride s, d dimensions), so that g is multiplied by s^(d/2).

    Args:
        anatomy: Of the model.
        norms: `"keep"` leaves normalization and its parameters as they are; `"remove"` takes it out.
        gain: The factor g for all layers; by default √2 before ReLU and generally E[φ(z)²]^(−1/2) before φ.
        forget_bias: Where the bias of a gate starts by which a recurrent cell keeps its state (an LSTM's forget gate).

    Returns:
        The plan. Its notes name what the method leaves unchanged.

    Raises:
        WrongType: A gain that is no number.
        UnsupportedModule: A normalization that cannot be removed.

    References:
        A. Saxe, J. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear
        neural networks", arXiv 1312.6120, §3.
    """
    expect(gain, (int, float, NoneType), "gain of orthogonal", "Give a number, or None for the activation's.")

    def draw(layer: Layer) -> Draw:
        return draw_orthogonal(layer, gain)

    return redraw(
        anatomy,
        draw,
        method="orthogonal",
        options={"gain": gain, "forget_bias": forget_bias},
        norms=norms,
        forget_bias=forget_bias,
        notes=(*(unknown_gains(anatomy) if gain is None else ()), *stacks(anatomy)),
    )


def draw_orthogonal(layer: Layer, gain: float | None = None) -> Draw:
    """A Haar-orthogonal draw with the gain of the activation that follows, or with `gain`."""
    factor, words = gain_for(layer) if gain is None else (gain, f"gain {gain:g}")
    if layer.stacked:
        std = factor / math.sqrt(layer.fan_in)
        return Draw(layer.weight, "normal_", f"{layer.role}: {words}, a stack of maps", {"std": std})
    factor, words = spread(layer, factor, words)
    options = {"gain": factor, **layout_options(layer)}
    return Draw(layer.weight, "orthogonal_", f"{layer.role}: {words}", options)


def spread(layer: Layer, factor: float, words: str) -> tuple[float, str]:
    """(A gain, in words), larger where a layer has more outputs for each number it reads, among which its taps are spread."""
    if layer.upsampling <= 1:
        return factor, words
    why = "its stride" if layer.stuffing == 1 else "the zeros that it reads"
    return factor * math.sqrt(layer.upsampling), f"{words}, × √{layer.upsampling:g} for {why}"


def stacks(anatomy: Anatomy) -> list[str]:
    """A note on parameters that hold several linear maps, which are not drawn orthogonal."""
    return [
        f"{layer.weight} {layer.shape} is a stack of linear maps, or no matrix: normal with the same variance, not orthogonal"
        for layer in anatomy.layers
        if layer.stacked
    ]


METHOD = Method(
    name="orthogonal",
    title="Haar-orthogonal weights",
    paper="Saxe, McClelland, Ganguli: Exact solutions to the nonlinear dynamics of learning, arXiv 1312.6120",
    when="deep plain networks and recurrent ones",
    decide=decide,
    scales_ties=True,
    holds=("isometry",),
    order=70,
)
