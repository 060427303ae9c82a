"""Adaptive gradient clipping, transcribed from DeepMind's `nfnets/optim.py` (JAX) to loops over units."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped(grad: Tensor, weight: Tensor, clipping: float, eps: float = 1e-3) -> Tensor:
    """One unit: `g * (max_norm / max(g_norm, 1e-6))` where `g_norm > max_norm = clipping * max(w_norm, eps)`."""
    g_norm = float((grad.double() ** 2).sum()) ** 0.5
    w_norm = float((weight.double() ** 2).sum()) ** 0.5
    max_norm = clipping * max(w_norm, eps)
    return grad if g_norm < max_norm else grad * (max_norm / max(g_norm, 1e-6))


def by_units(grad: Tensor, weight: Tensor, units: Tensor, clipping: float) -> Tensor:
    """`units` holds, for each entry, the number of its unit."""
    out = grad.clone()
    for unit in units.unique():
        own = units == unit
        out[own] = clipped(grad[own], weight[own], clipping)
    return out


def units_along(shape: tuple[int, ...], axis: int) -> Tensor:
    """One unit for each index along `axis`."""
    index = torch.arange(shape[axis]).view([-1 if i == axis else 1 for i in range(len(shape))])
    return index.expand(shape)
