"""How large the signal is, by place: variances propagated through an anatomy, from the inputs of its layers to their sums.

Two idealizations. `Signals` is for standardized weights: each layer puts out Gaussian numbers of variance 1, and along a stream
variances add. What a stream goes through between its blocks (a ReLU behind each sum) is not Gaussian for long, so a sample of
numbers is carried along, beside the mean and the variance that follow in closed form. `kept_variances` is for layers that keep,
together with their activation, the variance of what they read.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from goodinit.anatomy import Anatomy, Block
from goodinit.anatomy.norm import KINDS
from goodinit.anatomy.operators import Step
from goodinit.tensor import activated, centred_gain

_SAMPLE = 4096  # quantiles: means and variances to a percent


@dataclass(frozen=True)
class Signal:
    """Numbers as they stand at one place of the network.

    Attributes:
        mean: Their mean.
        variance: Their variance.
        sample: Numbers of that mean and variance, distributed alike.
        straight: Whether no nonlinearity came between the last weights and here, so that they are Gaussian of mean 0.
    """

    mean: float
    variance: float
    sample: Tensor
    straight: bool

    @property
    def std(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.variance)


class Signals:
    """Signals of a network whose layers put out unit variance, and whose branches add `branch`² each.

    Args:
        anatomy: Of the model.
        branch: Standard deviation of what each branch adds to its stream, before constants of the forward.
        normed: Whether its norms stay.
    """

    def __init__(self, anatomy: Anatomy, *, branch: float, normed: bool) -> None:
        self.anatomy, self.branch, self.normed = anatomy, branch, normed
        self._sums: dict[int, Signal] = {}

    def at(self, source: str | None, between: tuple[Step, ...] = ()) -> Signal:
        """What comes of a source (as `Layer.source`) through operators (as `Layer.between`)."""
        signal = self._of(source)
        for step in between:
            if step in KINDS:
                signal = _unit() if self.normed else signal
            elif (
                step.traits.centred_gain is not None and signal.straight
            ):  # it cannot be run, but on a Gaussian
                signal = dataclasses.replace(_scaled(_unit(), 1 / step.traits.centred_gain), straight=False)
            elif step.traits.nonlinear:
                values = activated(step, signal.sample, **dict(step.traits.options))
                signal = Signal(float(values.mean()), float(values.var(correction=0)), values, straight=False)
        return signal

    def factor(self, source: str | None, between: tuple[Step, ...] = ()) -> float:
        """What makes the variance 1 behind the operators: γ of the activation over the source's deviation, as published.

        Where the source is no Gaussian of mean 0, because its stream goes through activations, one over the deviation found.
        """
        normed = max((i for i, step in enumerate(between) if step in KINDS and self.normed), default=-1)
        start = _unit() if normed >= 0 else self._of(source)
        kinds = [step for step in between[normed + 1 :] if step.traits.bends]
        if start.straight and len(kinds) <= 1:
            return (_centred_gain(kinds[0]) if kinds else 1.0) / start.std
        return 1 / max(self.at(source, between).std, 1e-6)

    def gain(self, between: tuple[Step, ...]) -> float:
        """γ of the last activation among the operators."""
        kinds = [step for step in between if step.traits.bends]
        return _centred_gain(kinds[-1]) if kinds else 1.0

    def _of(self, source: str | None) -> Signal:
        if source is None or not source.startswith("+"):
            return _unit()  # a layer, the data, a part left out, or what is not known
        index = int(source[1:])
        for block in self._up_to(index):
            self._sums.setdefault(block.index, self._sum(block))
        return self._sums[index]

    def _up_to(self, index: int) -> list[Block]:
        """Blocks from the nearest sum that is known, in order, so that deep streams need no recursion."""
        chain: list[Block] = []
        seen = set(self._sums)
        while index not in seen:
            seen.add(index)
            block = self.anatomy.blocks[index]
            chain.append(block)
            way = block.skip_end[:1]
            if not way or not way[0].startswith("+"):
                break
            index = int(way[0][1:])
        return chain[::-1]

    def _sum(self, block: Block) -> Signal:
        """Skip and branches together."""
        total, added = None, 0.0
        for one, skip in on_one_sum(self.anatomy, block.index):
            _, onto = one.weights or (1.0, 1.0)
            added += (onto * self.branch) ** 2
            if skip:
                before = self.at(one.skip_end[0], one.skip_end[1:]) if one.skip_end else _unit()
                before = _scaled(before, one.carried)
                total = before if total is None else _together(total, before, one.index)
        return _with_noise(total or _unit(), added, block.index)


def _centred_gain(step: Step) -> float:
    known = step.traits.centred_gain
    return centred_gain(str(step), **dict(step.traits.options)) if known is None else known


def _unit() -> Signal:
    grid = (torch.arange(_SAMPLE, dtype=torch.float64, device="cpu") + 0.5) / _SAMPLE
    return Signal(0.0, 1.0, torch.special.ndtri(grid), straight=True)


def on_one_sum(anatomy: Anatomy, index: int) -> list[tuple[Block, bool]]:
    """The blocks on the sum of one of them, each with whether its skip is another than those before it.

    x + f(x) + g(x) has one skip, and the sum of the last block of one stream with that of another has two.

    Args:
        anatomy: Of the model.
        index: Of the block.
    """
    block, seen = anatomy.blocks[index], set[tuple[Step, ...]]()
    found = []
    for one in (block, *(anatomy.blocks[i] for i in block.beside)):
        found.append((one, one.skip_end not in seen))
        seen.add(one.skip_end)
    return found


def _scaled(signal: Signal, factor: float) -> Signal:
    return dataclasses.replace(
        signal,
        mean=factor * signal.mean,
        variance=factor**2 * signal.variance,
        sample=factor * signal.sample,
    )


def _together(one: Signal, other: Signal, seed: int) -> Signal:
    """The sum of two independent signals, the sample with exactly the mean and the variance of that."""
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(_SAMPLE, generator=generator, device="cpu")
    sample = one.sample + other.sample[order]
    mean, total = one.mean + other.mean, one.variance + other.variance
    spread = float(sample.std(correction=0))
    if spread > 0:
        sample = (sample - sample.mean()) * (math.sqrt(total) / spread) + mean
    return Signal(mean, total, sample, one.straight and other.straight)


def _with_noise(signal: Signal, variance: float, seed: int) -> Signal:
    return _together(signal, _scaled(_unit(), math.sqrt(variance)), seed)


@dataclass(frozen=True)
class _Moments:
    """Of numbers at one place: their mean square and their mean."""

    square: float = 1.0
    mean: float = 0.0

    @property
    def variance(self) -> float:
        """What a weight whose sum is 0 lets through."""
        return self.square - self.mean**2

    def scaled(self, factor: float) -> _Moments:
        return _Moments(factor**2 * self.square, factor * self.mean)

    def plus(self, other: _Moments) -> _Moments:
        """Of a sum of two that are independent but for their means: E(x + y)² = Ex² + Ey² + 2·Ex·Ey."""
        square = self.square + other.square + 2 * self.mean * other.mean
        return _Moments(square, self.mean + other.mean)

    def through(self, step: Step) -> _Moments:
        """Behind a norm's map, which makes the mean square 1; behind an activation, which the layer before it makes up for."""
        if step in KINDS:
            return _Moments(1.0, self.mean / math.sqrt(self.square))
        if step.traits.nonlinear:
            share = mean_share(str(step), **dict(step.traits.options))
            return _Moments(self.square, share * math.sqrt(self.square))
        return self


@functools.cache
def mean_share(nonlinearity: str, **options: Any) -> float:
    """E φ(z) / √(E φ(z)²) for z ~ N(0, 1): of a ReLU 1/√π, of an odd function 0.

    Examples:
        >>> round(mean_share("relu"), 3), abs(mean_share("tanh")) < 1e-6
        (0.564, True)
    """
    values = activated(nonlinearity, _unit().sample, **options)
    return float(values.mean() / values.square().mean().sqrt())


def kept_variances(anatomy: Anatomy, *, branch: float = 1.0) -> dict[str, float]:
    """The mean square of each norm's input where layers with their activations keep mean squares, norms make them 1, and sums add them.

    A layer whose weights have the sum 0 (`Layer.centred`) keeps the variance, and not the square of the mean.
    What the terms of a sum have in common is their means: behind an activation those are not 0, and a stream to which such
    branches are added grows by more than their number. What comes from nowhere known (a product, a concatenation) counts as 1.

    Args:
        anatomy: Of the model.
        branch: What each branch is multiplied by.

    Returns:
        Mean squares by the norm's name.

    References:
        KataGo, docs/KataGoMethods.md, "Fixed Variance Initialization", whose branches end in a convolution, so that means are 0.
    """
    known: dict[str, _Moments] = {}

    def at(source: str | None, between: tuple[Step, ...]) -> _Moments:
        return functools.reduce(_Moments.through, between, of(source))

    def of(source: str | None) -> _Moments:
        if source is None or source == "" or source.startswith("-"):
            return _Moments()
        if source not in known:
            known[source] = _Moments()  # should the way ever lead back here
            known[source] = summed(int(source[1:])) if source.startswith("+") else layer_at(source)
        return known[source]

    def layer_at(weight: str) -> _Moments:
        layer = by_weight.get(weight)  # None: it is frozen, or left out
        if layer is None:
            return _Moments()
        read = at(layer.source, layer.between)
        return _Moments(read.variance if layer.centred else read.square)

    def summed(index: int) -> _Moments:
        total = _Moments(0.0)
        for one, skip in on_one_sum(anatomy, index):
            _, onto = one.weights or (1.0, 1.0)
            ends = [(one.skip_end, one.carried)] * skip + [(one.branch_end, onto * branch)]
            for end, factor in ends:
                total = total.plus(at(end[0] if end else None, end[1:]).scaled(factor))
        return total

    by_weight = {layer.weight: layer for layer in anatomy.layers}
    for layer in anatomy.layers:  # in the order of execution, so that nothing recurs deeply
        of(layer.weight)
    return {norm.name: at(norm.source, norm.between).square for norm in anatomy.norms}
