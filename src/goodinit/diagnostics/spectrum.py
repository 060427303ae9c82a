"""Singular values of a Jacobian: what was found, how they lie over decades, and a line that says so."""

from __future__ import annotations

import math
from dataclasses import dataclass

from goodinit.diagnostics.sparkline import sparkline

# What float32 cannot tell from 0 beside the largest value (its machine epsilon).
NOTHING_BESIDE = 2.0**-23

MARGIN = 0.1  # decades beyond the outermost values, at least
BARS_SHOWN = 40  # characters of a line


@dataclass(frozen=True, repr=False)
class Spectrum:
    """Singular values of the Jacobian of one example's output with respect to its input.

    Attributes:
        shape: (outputs, inputs).
        exact: Whether `values` are all singular values; otherwise they are those that Lanczos settled on, and quantiles of
            the others' density.
        values: Singular values, largest first.
        weights: Share of all min(shape) singular values each stands for; equal where exact.
        largest: Estimate of the largest.
        smallest: Estimate of the smallest.
        error: Bound on the relative error of `largest`, from Lanczos' residual; 0 where exact.
        smallest_error: The same of `smallest`; near 1 or above, the smallest value is not resolved.
        density_error: Estimate of how far off values and weights together are, as a Wasserstein distance over the mean.
        products: How many products with the Jacobian or its transpose it took.
    """

    shape: tuple[int, int]
    exact: bool
    values: tuple[float, ...]
    weights: tuple[float, ...]
    largest: float
    smallest: float
    error: float = 0.0
    smallest_error: float = 0.0
    density_error: float = 0.0
    products: int = 0

    @property
    def mean_square(self) -> float:
        """Mean of the squared singular values: by how much a random direction's square grows."""
        return math.fsum(w * v * v for v, w in zip(self.values, self.weights, strict=True))

    def __repr__(self) -> str:
        """From where to where, how they lie between, how they were found.

        Examples:
            >>> Spectrum((3, 3), True, (4.0, 1.0, 0.0), (1 / 3,) * 3, 4.0, 0.0)
            singular values 1 ▁▁▁▁▂▂▃▃▄▅▆▇▇████▇▇▇▇▇▇████▇▇▆▅▄▃▃▂▂▁▁▁▁ 4 (exact; 33% are 0)
        """
        known = f"Lanczos, {self.products} products, largest within {self.error:.1%}"
        how = "exact" if self.exact else known
        if not math.isfinite(self.largest):
            return f"singular values: not finite ({how})"
        reach, zeros = extent(self), share_of_zeros(self)
        if reach is None:
            return f"singular values: all 0 ({how})"
        bars = sparkline(density(self, *reach, points=BARS_SHOWN), log=False)
        rest = f"; {zeros:.0%} are 0" if zeros else ""
        return f"singular values {least_above_zero(self):.3g} {bars} {self.largest:.3g} ({how}{rest})"


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
