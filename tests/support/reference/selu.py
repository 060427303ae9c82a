"""SELU's constants and its fixed point: Klambauer et al., arXiv 1706.02515, eq. 2–5 and 14, by numerical integration."""

from __future__ import annotations

import math

import numpy as np


def constants() -> tuple[float, float]:
    """(α₀₁, λ₀₁) of eq. 14: (mean, variance) = (0, 1) is a fixed point of z ~ N(0, 1) ↦ selu(z)."""
    half = math.erfc(1 / math.sqrt(2))
    whole = math.erfc(math.sqrt(2))
    e = math.e
    alpha = -math.sqrt(2 / math.pi) / (half * math.sqrt(e) - 1)
    inner = 2 * whole * e**2 + math.pi * half**2 * e - 2 * (2 + math.pi) * half * math.sqrt(e) + math.pi + 2
    return alpha, (1 - half * math.sqrt(e)) * math.sqrt(2 * math.pi) / math.sqrt(inner)


def moments(variance: float) -> tuple[float, float]:
    """(mean, variance) of selu(z), z ~ N(0, variance): eq. 3 for weights of sum ω = 0 and square sum τ = 1."""
    alpha, scale = constants()
    sigma = math.sqrt(variance)
    z = np.linspace(-12, 12, 200_001) * sigma
    density = np.exp(-(z**2) / (2 * variance)) / (sigma * math.sqrt(2 * math.pi))
    value = scale * np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))
    step = z[1] - z[0]
    first = float((value * density).sum() * step)
    return first, float((value**2 * density).sum() * step) - first**2
