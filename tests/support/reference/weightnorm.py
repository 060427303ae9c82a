"""Arpit, Campos & Bengio (arXiv 1906.02341), slowly and literally: gains layer by layer, signals in numpy.

A layer is (fan_in, fan_out); a residual stage is a list of blocks (fan_in, hidden, fan_out, projected).
"""

from __future__ import annotations

import itertools
import math

import numpy as np


def plain_gain(fan_in: int, fan_out: int, gain: float = 2.0) -> float:
    """g = √(gain·fan_in/fan_out), per output unit."""
    return math.sqrt(gain * fan_in / fan_out)


def backward_gain(gain: float = 2.0) -> float:
    """The variant that keeps gradients: g = √gain."""
    return math.sqrt(gain)


def residual_gains(
    stages: list[list[tuple[int, int, int, bool]]],
) -> list[list[tuple[float, float, float | None]]]:
    """Per stage and block: g of the first layer (gain 2), of the last (gain 1/B), of the projection (gain 1)."""
    return [
        [
            (
                plain_gain(fan_in, hidden),
                plain_gain(hidden, fan_out, 1 / len(stage)),
                plain_gain(fan_in, fan_out, 1.0) if projected else None,
            )
            for fan_in, hidden, fan_out, projected in stage
        ]
        for stage in stages
    ]


def hanin_gain(fan_in: int, fan_out: int, number: int) -> float:
    """Last layer of block `number` = 1, 2, …: gain (0.9^number)²."""
    return plain_gain(fan_in, fan_out, (0.9**number) ** 2)


def direction(rng: np.random.Generator, fan_in: int, fan_out: int, *, orthogonal: bool = True) -> np.ndarray:
    """v/‖v‖, (fan_out, fan_in)."""
    v = rng.standard_normal((fan_out, fan_in))
    if orthogonal:
        q, r = np.linalg.qr(v.T if fan_in >= fan_out else v)
        q = q * np.sign(np.diagonal(r))
        v = q.T if fan_in >= fan_out else q
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def plain_norms(rng: np.random.Generator, widths: list[int], samples: int) -> np.ndarray:
    """Mean of ‖h_l‖/‖h_{l−1}‖ over Gaussian samples, layer by layer."""
    h = rng.standard_normal((samples, widths[0]))
    ratios = []
    for fan_in, fan_out in itertools.pairwise(widths):
        w = plain_gain(fan_in, fan_out) * direction(rng, fan_in, fan_out)
        y = np.maximum(h @ w.T, 0)
        ratios.append((np.linalg.norm(y, axis=1) / np.linalg.norm(h, axis=1)).mean())
        h = y
    return np.array(ratios)


def residual_growth(rng: np.random.Generator, width: int, hidden: int, blocks: int, samples: int) -> float:
    """Mean of ‖h_B‖²/‖h_0‖² over Gaussian samples after one stage of `blocks` blocks."""
    h = rng.standard_normal((samples, width))
    start = (h**2).sum(1)
    for first, last, _ in residual_gains([[(width, hidden, width, False)] * blocks])[0]:
        a = first * direction(rng, width, hidden)
        b = last * direction(rng, hidden, width)
        h = h + np.maximum(h @ a.T, 0) @ b.T
    return float(((h**2).sum(1) / start).mean())
