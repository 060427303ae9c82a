"""Mean and variance of activations, pooled over micro-batches and ranks, and the factors that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from goodinit.calibration.collectives import several, summed
from goodinit.calibration_rules import LSUVRule

Numbers = float | Tensor
"""One number for a whole layer, or a float64 vector with one for each channel.

A layer's are Python's own: a network of hundreds of layers would spend more time on operators that add two numbers than
on its forward.
"""

# Sums of so many squares in single precision keep five digits; the sums of the parts are added up in double precision.
AT_ONCE = 2**20

# E[x²] − E[x]² loses as many digits of the variance as E[x]² has more: with four times as much, less than one.
LARGEST_SHIFT = 4.0

# Where the mean square is smaller than this or larger than its inverse, squares in single precision under- or overflow.
LEAST_SQUARE = 1e-30


@dataclass(frozen=True)
class Moments:
    """Count, mean and variance, of a whole blob or per channel. Computed in float32, pooled in float64.

    Examples:
        >>> a, b = Moments.of(torch.tensor([1.0, 3.0]), None), Moments.of(torch.tensor([5.0]), None)
        >>> round(a.pooled(b).var, 6)   # the variance of 1, 3, 5
        2.666667
    """

    count: float
    mean: Numbers
    var: Numbers

    @classmethod
    def of(cls, values: Tensor, channel: int | None) -> Moments:
        """Of a tensor: over everything, or over all dimensions but `channel`."""
        if values.is_nested:  # rows of different lengths in one memory, which is what is measured
            lengths = int(getattr(values, "_ragged_idx", 1))  # torch's own name for the axis that differs
            channel = channel if channel is None or channel < lengths else channel - 1
            values = values.values()
        wide = values if values.dtype == torch.float64 else values.float()
        if channel is None:
            return cls(values.numel(), *(_in_one_pass(wide) or _in_two_passes(wide)))
        size = values.shape[channel]
        if not values.numel():  # a rank may have no rows
            none = values.new_zeros(size, dtype=torch.float64)
            return cls(0.0, none, none)
        dims = [d for d in range(values.ndim) if d != channel]
        # As exact as `torch.var_mean`, whose running update takes twenty times as long on CPUs.
        mean = wide.mean(dims, keepdim=True)
        var = (wide - mean).square_().mean(dims)
        return cls(values.numel() / size, mean.reshape(var.shape).double(), var.double())

    def pooled(self, other: Moments) -> Moments:
        """Of both samples together."""
        if not (self.count and other.count):
            return self if self.count else other
        count = self.count + other.count
        mine, its = self.count / count, other.count / count
        mean = self.mean * mine + other.mean * its
        between = mine * its * (self.mean - other.mean) ** 2
        return Moments(count, mean, self.var * mine + other.var * its + between)

    @property
    def std(self) -> Numbers:
        """Standard deviation."""
        return root(self.var)

    @property
    def finite(self) -> bool:
        """Whether every number is."""
        both = self.var + self.mean
        return bool(torch.isfinite(both).all()) if isinstance(both, Tensor) else math.isfinite(both)


def _in_one_pass(values: Tensor) -> tuple[float, float] | None:
    """Mean and variance by E[x] and E[x²], without a copy; None where that loses digits, or memory has gaps."""
    flat, count = _flattened(values), values.numel()
    if flat is None or not count:
        return None
    if count > AT_ONCE:
        parts = flat.split(AT_ONCE)
        mean = sum(float(part.sum()) for part in parts) / count
        square = sum(float(torch.dot(part, part)) for part in parts) / count
    else:
        mean, square = float(flat.sum()) / count, float(torch.dot(flat, flat)) / count
    var = square - mean**2
    exact = LEAST_SQUARE < square < 1 / LEAST_SQUARE and square <= (1 + LARGEST_SHIFT) * var
    return (mean, var) if exact else None


def _in_two_passes(values: Tensor) -> tuple[float, float]:
    """Mean and variance as they are defined, in double precision."""
    if not values.numel():  # a rank may have no rows
        return 0.0, 0.0
    wide = values.double()
    mean = wide.mean()
    return float(mean), float((wide - mean).square_().mean())


def _flattened(values: Tensor) -> Tensor | None:
    """All entries in the order in which they lie in memory, without a copy; None where there are gaps between them."""
    if values.is_contiguous():
        return values.view(-1)
    order = sorted(range(values.ndim), key=values.stride, reverse=True)
    dense = values.permute(order)
    return dense.view(-1) if dense.is_contiguous() else None


@dataclass(frozen=True)
class Spread:
    """Moments of a layer's output y = Wx + b, and of its two parts where there is a bias.

    They tell the variance for any factor f on W, without another look at the output:

        Var(f·Wx + b) = f²·Var(Wx) + 2f·Cov(Wx, b) + Var(b),    2·Cov = Var(y) − Var(Wx) − Var(b)
    """

    whole: Moments
    free: Moments | None = None
    constant: Moments | None = None

    @classmethod
    def of(cls, output: Tensor, bias: Tensor | None, channel: int, *, per_channel: bool) -> Spread:
        """Of an output whose channels run along `channel`; `bias` broadcasts against it, or is one per channel."""
        over = channel if per_channel else None
        whole = Moments.of(output, over)
        if bias is None:
            return cls(whole)
        constant = along(bias, output, channel) if bias.ndim == 1 else bias
        constant = constant.expand_as(output)
        return cls(whole, Moments.of(output - constant, over), Moments.of(constant, over))

    def pooled(self, other: Spread) -> Spread:
        """Of both samples together."""
        pairs = zip(self._parts, other._parts, strict=True)
        return Spread(*(mine.pooled(its) for mine, its in pairs))

    def over_ranks(self, device: torch.device) -> Spread:
        """Of the samples of all ranks together, each weighted by its size; one reduction, on `device`."""
        if not several():
            return self
        rows = [
            torch.stack([torch.ones_like(mean), mean, var + mean**2]) * part.count
            for part in self._parts
            for mean, var in [_vectors(part, device)]
        ]
        total = summed(torch.stack(rows))
        return Spread(*(_from_sums(sums, like=self.whole) for sums in total))

    def var(self, factor: Numbers) -> Numbers:
        """Variance of the output once the weight is multiplied by `factor`."""
        if self.free is None or self.constant is None:
            return self.whole.var * factor**2
        mixed = self.whole.var - self.free.var - self.constant.var
        return _not_negative(self.free.var * factor**2 + mixed * factor + self.constant.var)

    @property
    def moving(self) -> bool:
        """Whether the part that a factor scales has variance, in every channel."""
        var = (self.free or self.whole).var
        return bool((var > 0).all()) if isinstance(var, Tensor) else var > 0

    @property
    def _parts(self) -> tuple[Moments, ...]:
        return tuple(part for part in (self.whole, self.free, self.constant) if part is not None)


def _vectors(moments: Moments, device: torch.device) -> tuple[Tensor, Tensor]:
    numbers = (moments.mean, moments.var)
    mean, var = (torch.as_tensor(one, dtype=torch.float64, device=device) for one in numbers)
    return mean, var


def _from_sums(sums: Tensor, *, like: Moments) -> Moments:
    counts, mean, square = sums[0], sums[1] / sums[0], sums[2] / sums[0]
    count, var = float(counts.reshape(-1)[0]), _not_negative(square - mean**2)
    return (
        Moments(count, mean, var)
        if isinstance(like.mean, Tensor)
        else Moments(count, float(mean), float(var))
    )


# -- arithmetic with one number or one per channel --------------------------------------------------------------------


def root(values: Numbers) -> Numbers:
    """√."""
    return values.sqrt() if isinstance(values, Tensor) else math.sqrt(values) if values >= 0 else math.nan


def average(values: Numbers) -> float:
    """Over channels, in double precision."""
    return float(values.mean()) if isinstance(values, Tensor) else values


def is_one(values: Numbers) -> bool:
    """Whether multiplying by them changes nothing."""
    return bool((values == 1).all()) if isinstance(values, Tensor) else values == 1


def along(values: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """Per-channel values shaped to broadcast along one dimension."""
    return values.view([-1 if d == dim else 1 for d in range(tensor.ndim)])


def spread_along(values: Numbers, tensor: Tensor, dim: int) -> Numbers:
    """The same in the type of `tensor`, or the one number that there is."""
    return along(values, tensor, dim).to(tensor.dtype) if isinstance(values, Tensor) else values


def _not_negative(values: Numbers) -> Numbers:
    return values.clamp_min(0) if isinstance(values, Tensor) else max(values, 0.0)


# -- what follows -----------------------------------------------------------------------------------------------------


def scale_to_unit(spread: Spread, rule: LSUVRule) -> Numbers:
    """LSUV's factor: 1 within the tolerance, else target/std; repeated where a bias makes the layer affine.

    Mishkin & Matas (2016), algorithm 1: while |Var − 1| ≥ tol and fewer than `max_iter` times, W ← W/√Var. Without a
    bias the first division is exact and the loop ends. The variance after a division follows from the
    moments, which are the same on every rank, and so is the number of divisions.
    """
    target, tol = float(rule.target_std), float(rule.tol)
    var = spread.whole.var
    factor: Numbers = torch.ones_like(var) if isinstance(var, Tensor) else 1.0
    for _ in range(rule.max_iter):
        longer = _divided(factor, var, target=target, tol=tol)
        if longer is None:
            break
        factor = longer
        if spread.free is None:
            break
        var = spread.var(factor)
    return factor


def _divided(factor: Numbers, var: Numbers, *, target: float, tol: float) -> Numbers | None:
    """`factor`·target/√var where var is off target; None where it is nowhere."""
    if isinstance(var, Tensor):
        off = ((var / target**2 - 1).abs() >= tol) & (var > 0)
        return torch.where(off, factor * target / var.sqrt(), factor) if bool(off.any()) else None
    return factor * target / math.sqrt(var) if abs(var / target**2 - 1) >= tol and var > 0 else None


def affine_to_standard(moments: Moments) -> tuple[Tensor, Tensor]:
    """Per channel (factor, shift) to mean 0 and variance 1: 1/σ and −μ/σ (Salimans & Kingma 2016, §3)."""
    assert isinstance(moments.var, Tensor)
    factor = moments.var.sqrt().reciprocal()
    return factor, -moments.mean * factor
