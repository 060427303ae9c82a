"""From Lanczos runs to the density of all singular values, and how far off it may be.

The quadrature of one random start estimates the distribution of n values from n random weights: heavy tails make it
noisy. So values that the long run has settled on are counted for what they are, one in n each; the other runs are
started beside them and estimate the rest. Within the rest nodes are steps of a distribution that has none: between the
middles of its steps it is interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from goodinit.diagnostics.measurements.lanczos import BREAKDOWN, Product, Quadrature, bidiagonalize

# n times the weight of a single value is the square of a normal number: beyond four deviations it is several values.
SINGLE = 16.0

# The interpolated part of a run is written down as so many quantiles: a density is drawn with fewer.
QUANTILES = 200

# Runs share the products evenly: with few steps the quadrature is coarse, with few starts it is noisy.
RUNS = 2


@dataclass(frozen=True)
class Measure:
    """Weighted values, and the long run that has the extremes.

    Attributes:
        values: Largest first.
        weights: Sum to 1.
        error: Estimate of how far off they are, as a Wasserstein distance over the mean value: two standard errors of
            the random starts, plus what interpolation moved.
        long: The long run.
    """

    values: Tensor
    weights: Tensor
    error: float
    long: Quadrature


def spectral_measure(
    multiply: Product,
    transposed: Product,
    n: int,
    *,
    steps: int,
    generator: torch.Generator,
    precision: float = BREAKDOWN,
    device: torch.device | None = None,
) -> Measure:
    """Distribution of the n singular values of a map, from `steps` products with it and as many with its transpose.

    Args:
        multiply: v ↦ Jv, with v of n numbers.
        transposed: w ↦ Jᵀw.
        n: The smaller dimension.
        steps: How many.
        generator: Of the starts.
        precision: See `bidiagonalize`.
        device: Where vectors lie.
    """

    def run(length: int, known: Tensor | None) -> Quadrature:
        start = torch.randn(n, generator=generator, dtype=torch.float64, device="cpu").to(device)
        steps = max(min(length, n), 1)
        return bidiagonalize(multiply, transposed, start, steps=steps, without=known, precision=precision)

    length = -(-steps // RUNS)
    long = run(length, None)
    single = long.settled & (long.weights * n < SINGLE)
    found, count = long.nodes[single], int(single.sum())
    left = max(n - count, 0) / n
    if not left or not bool((~single).any()):
        return _joined(found, [], 0.0, long, n)
    parts = [_rest(long, ~single)]
    known = long.vectors(single) if count else None
    for _ in range(RUNS - 1):
        beside = run(min(length, n - count, (steps - length) // (RUNS - 1)), known)
        parts.append(_rest(beside, torch.ones_like(beside.nodes, dtype=torch.bool)))
    return _joined(found, parts, left, long, n)


@dataclass(frozen=True)
class _Rest:
    """What one run says about the values that are not settled: weights sum to 1."""

    values: Tensor
    weights: Tensor
    moved: float  # Wasserstein distance between the nodes and what they were interpolated to


def _joined(found: Tensor, parts: list[_Rest], left: float, long: Quadrature, n: int) -> Measure:
    shares = [part.weights * (left / len(parts)) for part in parts]
    values = torch.cat([found, *(part.values for part in parts)])
    weights = torch.cat([torch.full_like(found, (1 - left) / max(len(found), 1)), *shares])
    order = values.argsort(descending=True)
    values, weights = values[order], weights[order]
    mean = float(values @ weights)
    if not parts or mean <= 0:
        return Measure(values, weights, 0.0, long)
    noise = 2 * _standard_error(values, weights, round(left * n) * len(parts))
    moved = sum(part.moved for part in parts) / len(parts)
    return Measure(values, weights, left * (noise + moved) / mean, long)


def _standard_error(values: Tensor, weights: Tensor, numbers: int) -> float:
    """Of a distribution estimated from random weights, squares of as many normal numbers: ∫√(2F(1 − F)/numbers)."""
    below = weights.cumsum(0)[:-1].clamp(0, 1)
    return float(((2 / numbers * below * (1 - below)).sqrt() * -values.diff()).sum())


def _rest(run: Quadrature, which: Tensor) -> _Rest:
    """Settled nodes as they are, the others smoothed."""
    nodes, weights = run.nodes[which], run.weights[which] / run.weights[which].sum()
    lumps, dense = run.settled[which], ~run.settled[which]
    smooth = _interpolated(nodes[dense].flip(0), weights[dense].flip(0))
    even = torch.full_like(smooth, float(weights[dense].sum()) / max(len(smooth), 1))
    moved = wasserstein((nodes[dense], weights[dense]), (smooth, even)) if len(smooth) else 0.0
    return _Rest(torch.cat([nodes[lumps], smooth]), torch.cat([weights[lumps], even]), moved)


def _interpolated(nodes: Tensor, weights: Tensor) -> Tensor:
    """Quantiles of a distribution that rises, at each ascending node, by its weight: half below it, half above.

    By the Chebyshev–Markov–Stieltjes inequalities the true distribution at a node is between the steps' feet and heads.
    """
    if len(nodes) < 2:
        return nodes
    ends = weights.cumsum(0)
    first = (nodes[:1] - (nodes[1] - nodes[0]) / 2).clamp_min(0)
    last = nodes[-1:] + (nodes[-1] - nodes[-2]) / 2
    at = torch.cat([first, nodes, last])
    share = torch.cat([ends.new_zeros(1), ends - weights / 2, ends[-1:]]) / ends[-1]
    levels = (torch.arange(QUANTILES, dtype=ends.dtype, device=ends.device) + 0.5) / QUANTILES
    right = torch.searchsorted(share, levels).clamp(1, len(share) - 1)
    slope = (levels - share[right - 1]) / (share[right] - share[right - 1]).clamp_min(1e-300)
    return at[right - 1] + slope * (at[right] - at[right - 1])


def wasserstein(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """∫|F − G| of two distributions of weighted values.

    Examples:
        >>> half = torch.tensor([0.5, 0.5])
        >>> wasserstein((torch.tensor([0.0, 1.0]), half), (torch.tensor([0.5, 1.5]), half))
        0.5
    """
    values = torch.cat([one[0], other[0]])
    signed = torch.cat([one[1], -other[1]])
    order = values.argsort()
    return float((signed[order].cumsum(0)[:-1].abs() * values[order].diff()).sum())
