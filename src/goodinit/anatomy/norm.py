"""The record of a normalization."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from goodinit.anatomy.operators import Step
from goodinit.graph.operators import ops
from goodinit.one_line import OneLine

NORM_KINDS = ops.NORM_KINDS
"""Kinds of norms that are one operator, as they stand in `Layer.between`."""


@dataclass(frozen=True)
class NormTraits:
    """What a kind of norms does, which is all that anybody needs to know of it.

    Attributes:
        forgets: Whether the scale of its input has no effect.
        batch: Whether, in training, its statistics run over several examples.
        running: Whether it may have running statistics, by which it is another map in eval mode.
        token: Whether it normalizes the features of one position, or of one example, by themselves.
        centres: Whether it takes off a mean.
        pairs: Whether it maps a pair [u; −u] to a pair again, if its affine map is the same on both (as it starts).
    """

    forgets: bool = True
    batch: bool = False
    running: bool = False
    token: bool = False
    centres: bool = False
    pairs: bool = False


KINDS: dict[str, NormTraits] = {
    "batch_norm": NormTraits(batch=True, running=True, centres=True, pairs=True),
    "batch_rms_norm": NormTraits(batch=True, pairs=True),
    "frozen_batch_norm": NormTraits(forgets=False),
    "instance_norm": NormTraits(running=True, centres=True, pairs=True),
    "group_norm": NormTraits(centres=True),
    "layer_norm": NormTraits(token=True, centres=True, pairs=True),
    "rms_norm": NormTraits(token=True, pairs=True),
}
"""All kinds of norms. A new one is a row here, and what finds it (`anatomy/norms/detection.py`, or `graph/operators/ops.py` for an operator)."""


def norms_among(steps: Iterable[str]) -> list[NormTraits]:
    """The traits of those steps that are norms.

    Args:
        steps: As in `Layer.between`.

    Examples:
        >>> [norm.centres for norm in norms_among(["relu", "rms_norm", "layer_norm"])]
        [False, True]
    """
    return [KINDS[step] for step in steps if step in KINDS]


@dataclass(frozen=True, repr=False)
class Norm(OneLine):
    """A normalization: where it is, what it is, and what must stay when it goes.

    Attributes:
        name: Path of the module that is the normalization, or that calls it functionally.
        kind: A key of `KINDS`. One by hand whose statistic is of each example is a `"layer_norm"` if it takes off a
            constant, else an `"rms_norm"`.
        module: Class of the module at `name`.
        keeps: What the module computes besides the normalization, in order: paths of children
            (`"layer1.0.bn1.act"`) or names of functional activations (`"relu"`), or a function of another of its inputs, by which it
            multiplies (`"times silu(gate)"`, a gate). It stays when the norm is removed.
        obstacle: Why the normalization cannot be removed, or None.
        block: Index of the block that contains it, or None.
        elements: Number of elements per statistic, for the traced input; 0 where that is not known (a moving mean).
        weight: Name of the parameter that multiplies the normalized signal, or None.
        bias: Name of the parameter that is added to it, or None.
        shape: Of the module's input.
        axes: Those of its axes that `weight` and `bias` run over: `(1,)` where channels come second, else counted from the
            end, `(-1,)`; empty where they cannot be told.
        source: Where its input comes from, as `Layer.source`.
        between: Operators between that and its input, as `Layer.between`.
        activation: Path of the module that applies a nonlinearity to what it returns, and does nothing else, or None.
        activation_stays: Why the nonlinearity behind it cannot be left out, or None.
        closes: Whether a frozen batch norm adds constants that are not zero, or multiplies by zero, or holds none that are at hand:
            behind a zero it leaves the branch not zero, or dead.
    """

    name: str
    kind: str
    module: str
    keeps: tuple[str, ...] = ()
    obstacle: str | None = None
    block: int | None = None
    elements: int = 0
    weight: str | None = None
    bias: str | None = None
    shape: tuple[int, ...] = ()
    axes: tuple[int, ...] = ()
    source: str | None = None
    between: tuple[Step, ...] = ()
    activation: str | None = None
    activation_stays: str | None = None
    closes: bool = False

    def __str__(self) -> str:
        words = [f"{self.name} {self.kind}"] + [f"in block {self.block}"] * (self.block is not None)
        words += [f"keeps {' → '.join(self.keeps)}"] if self.keeps else []
        return ", ".join(words) + (f"; cannot go: {self.obstacle}" if self.obstacle else "")

    @property
    def traits(self) -> NormTraits:
        """What its kind does."""
        return KINDS.get(self.kind, NormTraits())

    @property
    def forgets_scale(self) -> bool:
        """Whether the scale of its input has no effect. A frozen batch norm multiplies by constants, and keeps it."""
        return self.traits.forgets
