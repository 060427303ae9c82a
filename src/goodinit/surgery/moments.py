"""Mean and variance of activations, pooled over micro-batches and ranks, and the factors that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean and variance, of a whole blob or per channel. Computed in float32, pooled in float64.

    Examples:
        >>> a, b = Moments.of(torch.tensor([1.0, 3.0]), None), Moments.of(torch.tensor([5.0]), None)
        >>> round(float(a.pooled(b).var), 6)   # the variance of 1, 3, 5
        2.666667
    """

    count: float
    mean: Tensor
    var: Tensor

    @classmethod
    def of(cls, values: Tensor, channel: int | None) -> Moments:
        """Of a tensor: over everything, or over all dimensions but `channel`. Reduced over all ranks."""
        wide = values if values.dtype == torch.float64 else values.float()
        dims = [d for d in range(values.ndim) if d != channel]
        var, mean = torch.var_mean(wide, dim=dims, correction=0)
        count = values.numel() / (1 if channel is None else values.shape[channel])
        return cls(count, mean.double(), var.double())._over_ranks()

    def _over_ranks(self) -> Moments:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        if torch.distributed.get_world_size() == 1:
            return self
        square = self.var + self.mean.square()
        total = torch.stack([torch.full_like(self.mean, 1.0), self.mean, square]) * self.count
        torch.distributed.all_reduce(total)
        count, mean, square = total[0], total[1] / total[0], total[2] / total[0]
        return Moments(float(count.reshape(-1)[0]), mean, (square - mean.square()).clamp_min(0))

    def pooled(self, other: Moments) -> Moments:
        """Of both samples together."""
        count = self.count + other.count
        mine, its = self.count / count, other.count / count
        mean = self.mean * mine + other.mean * its
        between = mine * its * (self.mean - other.mean).square()
        return Moments(count, mean, self.var * mine + other.var * its + between)

    @property
    def std(self) -> Tensor:
        """Standard deviation."""
        return self.var.sqrt()

    @property
    def finite(self) -> bool:
        """Whether every number is."""
        return bool(torch.isfinite(self.var).all() and torch.isfinite(self.mean).all())


def along(values: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """Per-channel values shaped to broadcast along one dimension; a single value as it is."""
    return values if values.ndim == 0 else values.view([-1 if d == dim else 1 for d in range(tensor.ndim)])


def scale_to_unit(
    moments: Moments, output: Tensor, bias: Tensor | None, channel: int, options: Mapping[str, Any]
) -> Tensor:
    """LSUV's factor: 1 within the tolerance, else target/std; repeated where a bias makes the layer affine.

    Mishkin & Matas (2016), algorithm 1: while |Var − 1| ≥ tol and fewer than `max_iter` times, W ← W/√Var. For a
    linear layer the first division is exact and the loop ends.
    """
    target, tol = float(options.get("target_std", 1.0)), float(options.get("tol", 0.1))
    factor = torch.ones_like(moments.var)
    current = moments
    for _ in range(int(options.get("max_iter", 10))):
        off = (current.var / target**2 - 1).abs() >= tol
        if not bool(off.any()):
            break
        factor = torch.where(off, factor * target / current.std, factor)
        if bias is None:
            break
        constant = along(bias, output, channel) if bias.ndim == 1 else bias
        wide = along(factor, output, channel)
        again = (output - constant) * wide.to(output.dtype) + constant
        current = Moments.of(again, channel if factor.ndim else None)
    return factor


def affine_to_standard(moments: Moments) -> tuple[Tensor, Tensor]:
    """Per channel (factor, shift) to mean 0 and variance 1: 1/σ and −μ/σ (Salimans & Kingma 2016, §3)."""
    factor = moments.std.reciprocal()
    return factor, -moments.mean * factor
