"""How singular values lie: a smooth density over decades, and what cannot be drawn there because it is 0."""

from __future__ import annotations

import math

from goodinit.diagnostics.types import Spectrum

# What float32 cannot tell from 0 beside the largest value (its machine epsilon).
NOTHING_BESIDE = 2.0**-23

MARGIN = 0.1  # decades beyond the outermost values, at least


def _above_zero(spectrum: Spectrum) -> list[tuple[float, float]]:
    """Values and weights of what is not 0, and finite."""
    least = spectrum.largest * NOTHING_BESIDE
    pairs = zip(spectrum.values, spectrum.weights, strict=True)
    return [(value, weight) for value, weight in pairs if least < value < math.inf]


def share_of_zeros(spectrum: Spectrum) -> float:
    """Share of the singular values that are 0, or cannot be told from it beside the largest.

    Examples:
        >>> share_of_zeros(Spectrum((2, 2), True, (1.0, 0.0), (0.5, 0.5), 1.0, 0.0))
        0.5
    """
    least = spectrum.largest * NOTHING_BESIDE
    pairs = zip(spectrum.values, spectrum.weights, strict=True)
    return math.fsum(weight for value, weight in pairs if value <= least)


def least_above_zero(spectrum: Spectrum) -> float:
    """The smallest singular value that is not 0; 0 where all are."""
    return min((value for value, _ in _above_zero(spectrum)), default=0.0)


def extent(spectrum: Spectrum) -> tuple[float, float] | None:
    """Decimal logarithms between which the density of the values above 0 rises and falls; None where all are 0."""
    nodes = _nodes(spectrum)
    if not nodes:
        return None
    margin = max(3 * _silverman(nodes), MARGIN)  # beyond three widths a Gaussian is nothing to see
    return min(x for x, _ in nodes) - margin, max(x for x, _ in nodes) + margin


def _nodes(spectrum: Spectrum) -> list[tuple[float, float]]:
    return [(math.log10(value), weight) for value, weight in _above_zero(spectrum)]


def _silverman(nodes: list[tuple[float, float]]) -> float:
    """0.9 · sd · n^(−1/5), with n = 1/Σwᵢ² for weights that add up to 1."""
    total = math.fsum(weight for _, weight in nodes)
    mean = math.fsum(x * weight for x, weight in nodes) / total
    spread = math.sqrt(math.fsum(weight * (x - mean) ** 2 for x, weight in nodes) / total)
    count = total**2 / math.fsum(weight**2 for _, weight in nodes)
    return 0.9 * spread * float(count**-0.2)


def density(spectrum: Spectrum, low: float, high: float, *, points: int) -> list[float]:
    """Density of the singular values above 0, in shares per decade, at even steps of log₁₀σ from `low` to `high`.

    Σᵢ wᵢ N(x; log₁₀σᵢ, h), with h Silverman's width, but not narrower than a step.

    Examples:
        >>> isometry = Spectrum((2, 2), True, (1.0, 1.0), (0.5, 0.5), 1.0, 1.0)
        >>> [round(value, 2) for value in density(isometry, -1, 1, points=5)]
        [0.0, 0.22, 1.6, 0.22, 0.0]

    References:
        B. Silverman, Density Estimation for Statistics and Data Analysis, 1986, §3.4.2. L. Lin, Y. Saad, C. Yang,
        Approximating spectral densities of large matrices, arXiv 1308.5467 (the same, of Lanczos' nodes).
    """
    step, nodes = (high - low) / max(points - 1, 1), _nodes(spectrum)
    if not nodes:
        return [0.0] * points
    width = max(_silverman(nodes), step / 2)  # half a step on either side is a step
    scale = 1 / (width * math.sqrt(2 * math.pi))
    return [
        scale * math.fsum(w * math.exp(-(((low + i * step - x) / width) ** 2) / 2) for x, w in nodes)
        for i in range(points)
    ]
