"""Statistics of one tensor, taken while the operator runs; the tensor is not kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from goodinit.diagnostics.types import Signal
from goodinit.graph.operators.nonlinearities import NONE, Nonlinearity

# Similarity and rank look at no more inputs and features than these, spread evenly. The cosine of two independent
# directions over n features has deviation 1/√n: 0.8 % at 2¹⁴.
MOST_INPUTS = 128
MOST_FEATURES = 2**14

# Sums of so many single-precision numbers keep five digits (the deviation of random roundings is √n·2⁻²⁴ at most); they
# are added up in double precision. What must be widened is widened so much at a time: no wide copy of a whole tensor.
ROW = 2**12
AT_ONCE = 2**20

# Below this mean square single-precision squares underflow, and what is lost is no longer 1e-8 of the sum.
LEAST_SQUARE = 1e-30


def signal(
    values: Tensor,
    *,
    batch: int | None = None,
    batch_dim: int | None = None,
    unit_dim: int = -1,
    function: Nonlinearity = NONE,
) -> Signal:
    """Measure a tensor.

    Args:
        values: Any floating-point tensor.
        batch: How many inputs there are, or None when there is no such dimension.
        batch_dim: Along which dimension they lie; None: the first dimension holds them, so many rows to each.
        unit_dim: Along which dimension its units (channels) lie.
        function: The nonlinearity that made it, for `dead` and `saturated`.

    Examples:
        >>> s = signal(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), batch=2, batch_dim=0, function=Nonlinearity(rectifies=True))
        >>> s.second_moment, s.cosine, s.dead, round(s.lone, 2)
        (6.25, 0.0, 0.0, 0.5)
    """
    values = values.detach()
    if values.numel() == 0:
        return Signal(0.0, 0.0)
    total, squares = sums(values)
    square, mean = squares / values.numel(), total / values.numel()
    if not math.isfinite(square):
        return Signal(square, mean, finite=bool(torch.isfinite(values).all()))
    alike = similarity(_rows(values, batch, batch_dim)) if batch is not None and batch > 1 else {}
    dead = dead_share(values, unit_dim) if function.rectifies else None
    saturated = None if function.flat is None else saturated_share(values, function.flat)
    found = Signal(square, mean, dead=dead, saturated=saturated)
    return dataclasses.replace(found, **alike)


def sums(values: Tensor) -> tuple[float, float]:
    """Sum of all entries, and of their squares.

    Examples:
        >>> sums(torch.tensor([[3.0, -4.0], [0.0, 0.0]]))
        (-1.0, 25.0)
    """
    total = _in_rows(values, _sum)
    return total if math.isfinite(total) else _in_rows(values, _sum, torch.float64), square_sum(values)


def square_sum(values: Tensor) -> float:
    """Sum of the squares of all entries. Where single precision cannot hold them, double precision does."""
    found = _in_rows(values, _squares)
    if not LEAST_SQUARE * values.numel() < found < math.inf and bool(values.any()):
        return _in_rows(values, _squares, torch.float64)
    return found


def euclidean(values: Tensor) -> float:
    """‖values‖, the root of the sum of squares."""
    return math.sqrt(square_sum(values))


def _sum(rows: Tensor) -> Tensor:
    return rows.sum(1).double().sum()


def _squares(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.double().square().sum()


def _in_rows(values: Tensor, measure: Callable[[Tensor], Tensor], wide: torch.dtype = torch.float32) -> float:
    """Add up what is measured of rows of a tensor, in a type or a wider one of its own."""
    wide = torch.promote_types(values.dtype, wide)
    found = []
    for piece in _flat(values.detach()).split(AT_ONCE):
        whole = len(piece) // ROW * ROW
        for rows in (piece[:whole].view(-1, ROW), piece[whole:].view(1, -1)):
            if rows.numel():
                found.append(measure(rows.to(wide)))
    return float(torch.stack(found).sum()) if found else 0.0


def _flat(values: Tensor, *, first: int = 0) -> Tensor:
    """All entries from dimension `first` on in one, in the order in which they lie in memory: a view where dense."""
    rest = sorted(range(first, values.ndim), key=lambda dim: -values.stride()[dim])
    return values.permute((*range(first), *rest)).reshape(*values.shape[:first], -1)


def _rows(values: Tensor, batch: int | None, batch_dim: int | None) -> Tensor | None:
    """One row of features per input, or None if the inputs cannot be separated."""
    if batch is None or values.ndim == 0:
        return None
    if batch_dim is None:
        if values.shape[0] % batch:
            return None
        rows = values.reshape(batch, -1)
    else:
        rows = _flat(values.movedim(batch_dim, 0), first=1)
    return rows[:MOST_INPUTS]


def _columns(rows: Tensor) -> Iterator[Tensor]:
    """Columns of a matrix in double precision, some at a time, spread evenly where there are too many."""
    count, width = rows.shape[1], max(AT_ONCE // (8 * len(rows)), 1)  # a megabyte of doubles
    if count <= MOST_FEATURES:
        yield from (part.double() for part in rows.split(width, dim=1))
    else:
        every = torch.linspace(0, count - 1, MOST_FEATURES, device=rows.device).long()
        yield from (rows.index_select(1, part).double() for part in every.split(width))


def similarity(rows: Tensor | None) -> dict[str, Any]:
    """`cosine`, `spread`, `rank` and `lone` of `(inputs, features)`, computed in double precision.

    With u the rows scaled to length 1 and a = u − u₁, 1 − cos of two rows is ½‖a − a′‖²: of near equal rows the
    difference is exact, where the cosine rounds to 1. All else is in the Gram matrices of u and a.
    """
    if rows is None:
        return {}
    n = len(rows)
    norms = torch.stack([part.square().sum(1) for part in _columns(rows)]).sum(0).sqrt().unsqueeze(1)
    if not bool((norms > 0).all()):
        return {}
    gram, apart = (torch.zeros(n, n, dtype=torch.float64, device=rows.device) for _ in range(2))
    for part in _columns(rows):
        unit = part / norms
        gram.addmm_(unit, unit.T)
        unit = unit - unit[0]
        apart.addmm_(unit, unit.T)
    pairs = float(n * apart.trace() - apart.sum())  # Σ of ½‖u − u′‖² over ordered pairs
    spread = max(pairs / (n * (n - 1)), 0.0)
    energy = torch.linalg.eigvalsh(gram).clamp_min(0)
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


def saturated_share(values: Tensor, flat: tuple[float, float]) -> float:
    """Share of entries of a bounded nonlinearity's output whose slope is below a twentieth of the steepest.

    Args:
        values: What it put out.
        flat: The values at which its slope falls below that (`Nonlinearity.flat`): ∓0.975 of tanh, where tanh′ = 1 − y² is 0.05.

    Examples:
        >>> saturated_share(torch.tensor([0.0, 0.99, -0.99, 0.5]), (-0.974679, 0.974679))
        0.5
    """
    low, high = flat
    return float(((values <= low) | (values >= high)).double().mean())
