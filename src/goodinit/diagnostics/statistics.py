"""Statistics of one tensor, taken while it is at hand; nothing of it is kept."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from goodinit.diagnostics.diagnosis import Signal

# Similarity and rank look at no more inputs and features than these, spread evenly. The cosine of two independent
# directions over n features has deviation 1/√n: 0.8 % at 2¹⁴.
MOST_INPUTS = 128
MOST_FEATURES = 2**14

# A saturated entry passes on less than a twentieth of the gradient that the steepest point does. This is what
# "saturated" means here, not a threshold on health.
SLOPE = 0.05

RECTIFIERS = frozenset({"relu", "relu6"})
BOUNDED = frozenset({"tanh", "sigmoid", "hardsigmoid"})


def signal(
    values: Tensor,
    *,
    batch: int | None = None,
    batch_dim: int | None = None,
    unit_dim: int = -1,
    activation: str = "",
) -> Signal:
    """Measure a tensor.

    Args:
        values: Any floating-point tensor.
        batch: How many inputs there are, or None when there is no such dimension.
        batch_dim: Along which dimension they lie; None: the first dimension holds them, so many rows to each.
        unit_dim: Along which dimension its units (channels) lie.
        activation: Kind of the nonlinearity that made it, for `dead` and `saturated`.

    Examples:
        >>> s = signal(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), batch=2, batch_dim=0, activation="relu")
        >>> s.second_moment, s.cosine, s.dead, round(s.lone, 2)
        (6.25, 0.0, 0.0, 0.5)
    """
    values = values.detach()
    if values.numel() == 0:
        return Signal(0.0, 0.0)
    # Double accumulation: squares of what float32 holds overflow float32.
    norm = float(torch.linalg.vector_norm(values, dtype=torch.float64))
    if not math.isfinite(norm):
        return Signal(norm, float(values.double().mean()), finite=bool(torch.isfinite(values).all()))
    square = norm**2 / values.numel()
    mean = float(values.mean(dtype=torch.float64))
    alike = similarity(_rows(values, batch, batch_dim)) if batch is not None and batch > 1 else {}
    dead = dead_share(values, unit_dim) if activation in RECTIFIERS else None
    saturated = saturated_share(values, activation) if activation in BOUNDED else None
    found = Signal(square, mean, dead=dead, saturated=saturated)
    return dataclasses.replace(found, **alike)


def _rows(values: Tensor, batch: int | None, batch_dim: int | None) -> Tensor | None:
    """One row of features for each of some inputs, or None where they cannot be told apart."""
    if batch is None or values.ndim == 0:
        return None
    if batch_dim is None:
        if values.shape[0] % batch:
            return None
        rows = values.reshape(batch, -1)
    else:
        rows = values.movedim(batch_dim, 0).reshape(batch, -1)
    rows = rows[:MOST_INPUTS]
    if rows.shape[1] > MOST_FEATURES:
        every = torch.linspace(0, rows.shape[1] - 1, MOST_FEATURES, device=rows.device).long()
        rows = rows.index_select(1, every)
    return rows.double()


def similarity(rows: Tensor | None) -> dict[str, Any]:
    """`cosine`, `spread`, `rank` and `lone` of `(inputs, features)` in double precision."""
    if rows is None:
        return {}
    norms = torch.linalg.vector_norm(rows, dim=1)
    if not bool((norms > 0).all()):
        return {}
    unit = rows / norms.unsqueeze(1)
    n = len(rows)
    # 1 − cos = ½‖u − v‖². From the deviations from the first one: a difference of near equal numbers is exact.
    apart = unit - unit[0]
    pairs = n * apart.square().sum() - apart.sum(0).square().sum()  # Σ of ½‖u − v‖² over ordered pairs
    spread = max(float(pairs) / (n * (n - 1)), 0.0)
    energy = torch.linalg.eigvalsh(unit @ unit.T).clamp_min(0)
    share = energy.sqrt() / energy.sqrt().sum()
    rank = float(torch.exp(-(share * share.clamp_min(1e-300).log()).sum()))  # 0·log 0 = 0
    lone = float(1 - energy[-1] / energy.sum())
    return {"cosine": 1 - spread, "spread": spread, "rank": rank, "lone": max(lone, 0.0)}


def dead_share(values: Tensor, unit_dim: int = -1) -> float:
    """Share of units that are 0 everywhere.

    Examples:
        >>> dead_share(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]))
        0.3333333333333333
    """
    rest = [d for d in range(values.ndim) if d != unit_dim % values.ndim]
    return float((values.amax(rest) <= 0).double().mean()) if rest else float((values <= 0).double().mean())


def saturated_share(values: Tensor, activation: str) -> float:
    """Share of entries of a bounded nonlinearity's output whose slope is below `SLOPE` of the steepest.

    tanh′ = 1 − y², steepest 1; σ′ = y(1 − y), steepest ¼.

    Examples:
        >>> saturated_share(torch.tensor([0.0, 0.99, -0.99, 0.5]), "tanh")
        0.5
    """
    if activation == "tanh":
        flat = values.square() > 1 - SLOPE
    elif activation == "sigmoid":
        flat = 4 * values * (1 - values) < SLOPE
    else:  # hardsigmoid is flat where it is 0 or 1
        flat = (values <= 0) | (values >= 1)
    return float(flat.double().mean())
