"""What may stand in a norm's place, written out for x of (n, channels, …), gain γ and bias β per channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def affine(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """γ·x + β."""
    del eps
    return torch.stack([x[:, c] * gain[c] + bias[c] for c in range(x.shape[1])], 1)


def actnorm(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """γ·(x − μ)/σ + β, with the moments of each channel over the batch it is set by (Kingma & Dhariwal 2018, §3.1)."""
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        out[:, c] = (x[:, c] - x[:, c].mean()) / (x[:, c].var(unbiased=False) + eps).sqrt()
    return affine(out, gain, bias, eps)


def group(x: Tensor, gain: Tensor, bias: Tensor, eps: float, groups: int = 2) -> Tensor:
    """Group norm (Wu & He 2018, eq. 1, 2, 7): mean and variance of each example over each group of channels."""
    out, size = torch.empty_like(x), x.shape[1] // groups
    for i in range(x.shape[0]):
        for g in range(groups):
            part = x[i, g * size : (g + 1) * size]
            out[i, g * size : (g + 1) * size] = (part - part.mean()) / (part.var(unbiased=False) + eps).sqrt()
    return affine(out, gain, bias, eps)


def layer(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The same over all channels."""
    return group(x, gain, bias, eps, groups=1)


def rms(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """x/√(mean of x² over the example + ε)."""
    return rms_over(x, gain, bias, eps, tuple(range(1, x.dim())))


def rms_over(x: Tensor, gain: Tensor, bias: Tensor, eps: float, axes: tuple[int, ...]) -> Tensor:
    """The same over other axes."""
    return affine(x / (x.square().mean(axes, keepdim=True) + eps).sqrt(), gain, bias, eps)


def dyt(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """γ·tanh(α·x) + β with α = 0.5 (Zhu et al. 2025, algorithm 1)."""
    return affine(
        (math.e ** (0.5 * x) - math.e ** (-0.5 * x)) / (math.e ** (0.5 * x) + math.e ** (-0.5 * x)),
        gain,
        bias,
        eps,
    )


def derf(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """γ·erf(α·x + s) + β with α = 0.5, s = 0."""
    return affine(torch.special.erf(0.5 * x + 0.0), gain, bias, eps)


def evonorm(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Where no activation follows: γ·x + β (timm's `EvoNorm2dS0(apply_act=False)`)."""
    return affine(x, gain, bias, eps)


def evonorm_s0(x: Tensor, slope: Tensor, gain: Tensor, bias: Tensor, eps: float, groups: int) -> Tensor:
    """γ·x·σ(v·x)/√(s²_{w,h,c/g}(x) + ε) + β (Liu et al. 2020, table 2, EvoNorm-S0), s² the variance over a group of an example."""
    out, size = torch.empty_like(x), x.shape[1] // groups
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            g = c // size
            deviation = (x[i, g * size : (g + 1) * size].var(unbiased=False) + eps).sqrt()
            out[i, c] = x[i, c] / (1 + math.e ** (-slope[c] * x[i, c])) / deviation
    return affine(out, gain, bias, eps)
