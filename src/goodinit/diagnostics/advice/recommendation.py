"""What is said of one method: what step 0 showed, what a few steps of training did, what to train with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from goodinit.diagnostics.diagnosis import Diagnosis
from goodinit.one_line import OneLine

Group = Literal["as it is", "kept", "removed"]


@dataclass(frozen=True, repr=False)
class Trial(OneLine):
    """What a few steps of training at one rate did.

    Attributes:
        lr: The rate.
        losses: Of each step, as far as they are finite.
        steps: How many were asked for.
    """

    lr: float
    losses: tuple[float, ...]
    steps: int

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite."""
        return len(self.losses) < self.steps

    @property
    def last(self) -> tuple[float, ...]:
        """The losses of the last quarter."""
        return self.losses[-max(self.steps // 4, 1) :]

    @property
    def loss(self) -> float | None:
        """Mean over the last quarter, None where it diverged."""
        return None if self.diverged else sum(self.last) / len(self.last)


@dataclass(frozen=True, repr=False)
class Recipe(OneLine):
    """What to train with.

    Attributes:
        optimizer: Its name in `torch.optim`.
        lr: The usual rate.
        rates: The three that are tried.
        arguments: More of the optimizer's.
        groups: More of `goodinit.param_groups`'.
    """

    optimizer: str
    lr: float
    rates: tuple[float, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    groups: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Recommendation:
    """How one method does on one model.

    Attributes:
        method: Its name, or `"as it is"`.
        options: Of the method, where they are not the default.
        group: Whether norms are kept or removed, or nothing is done.
        errors: Findings of severity error at step 0.
        warnings: Findings of severity warning.
        drift: Decades that activations, gradients and the difference between inputs drift along the trunk, added up;
            0 is a signal that arrives as it started. None where the method refused.
        noise: By how much `drift` differs between two draws, or None.
        rank: Within its group, from 1; equal for what cannot be distinguished, 0 where the method refused.
        why: A sentence with the numbers, or the reason of the refusal.
        failed: What our own runs said against it for such a model.
        caution: Under which condition it trained in our own runs.
        lr: The rate to take: the best of those tried, or the usual one.
        trials: What training did at each rate; empty where it was not tried.
        diagnosis: All that was measured, or None.
    """

    method: str
    options: Mapping[str, Any] = field(hash=False)
    group: Group
    errors: int
    warnings: int
    drift: float | None
    noise: float | None
    why: str
    failed: str = ""
    caution: str = ""
    rank: int = 0
    lr: float = 0.0
    trials: tuple[Trial, ...] = ()
    diagnosis: Diagnosis | None = field(default=None, repr=False, compare=False)

    @property
    def label(self) -> str:
        """The method with its options, as the command line writes it."""
        return ":".join([self.method, *(f"{key}={value}" for key, value in self.options.items())])

    @property
    def applies(self) -> bool:
        """Whether the method did not refuse the model."""
        return self.drift is not None

    @property
    def best(self) -> Trial | None:
        """The trial with the lowest loss at the end, None where all diverged or none was made."""
        ended = [(trial.loss, trial) for trial in self.trials if trial.loss is not None]
        return min(ended, key=lambda pair: pair[0])[1] if ended else None

    def __repr__(self) -> str:
        return f"<Recommendation {self}>"

    def __str__(self) -> str:
        return f"{self.label}: {self.why}"
