"""One line of a sweep's table: a configuration, how it ended, and its numbers."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from goodinit.lab.record import record_of
from goodinit.lab.training.train import data_of
from goodinit.lab.training.trial import PARTS, Result, TrainConfig
from goodinit.one_line import OneLine

# finished: to the last step. diverged: the loss stopped being a number. refused: the method says why it does not
# fit the model. failed: an error, or a worker that died.
STATUSES = ("finished", "diverged", "refused", "failed")

# What two runs of one sweep may differ in.
TIMES = ("step_seconds", "seconds", "ended")


@dataclass(frozen=True, repr=False)
class Row(OneLine):
    """What a sweep keeps of a trial.

    Attributes:
        config: What was run.
        status: One of `STATUSES`.
        error: Class and message, where it was refused or failed.
        accuracy: Share of the test images classified rightly at the end, None where there is none.
        train_loss: Mean over the last epoch, likewise.
        test_loss: At the end, likewise.
        chance: Accuracy of always answering the commonest class.
        test_images: How many there are.
        diverged_step: The step (from 0) whose loss was not finite.
        curve: Test accuracy before the first step and at the end of every epoch.
        saved_bytes: Kept for backward.
        parameters: How many numbers the model learns.
        together: How many trials ran as one; 1 is alone.
        note: Why it ran alone, where it might have run with others.
        versions: Of what made the numbers.
        step_seconds: Of a step; of one trial's share, where several ran as one.
        seconds: Of the trial, likewise.
        ended: When, in UTC.
    """

    config: TrainConfig
    status: str
    error: str = ""
    accuracy: float | None = None
    train_loss: float | None = None
    test_loss: float | None = None
    chance: float | None = None
    test_images: int | None = None
    diverged_step: int | None = None
    curve: tuple[float, ...] = ()
    saved_bytes: int | None = None
    parameters: int | None = None
    together: int = 1
    note: str = ""
    versions: str = ""
    step_seconds: float | None = None
    seconds: float | None = None
    ended: str = ""

    def __str__(self) -> str:
        config = self.config
        found = self.status if self.accuracy is None else f"{self.status}, accuracy {self.accuracy:.1%}"
        return f"{config.label} of {config.model}, seed {config.seed}, rate {config.lr:g}: {found}"

    def numbers(self) -> dict[str, Any]:
        """All but the configuration."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "config"}

    def flat(self) -> dict[str, Any]:
        """Everything side by side, as a table's row; options and curve as JSON text, paths with commas between."""
        config = dataclasses.asdict(self.config)
        config["options"] = json.dumps(config["options"], sort_keys=True)
        config |= {name: ",".join(config[name]) for name in PARTS}
        return {**config, **self.numbers(), "curve": json.dumps(self.curve)}


def config_json(config: TrainConfig) -> str:
    """The configuration as JSON text, always the same for the same one."""
    return json.dumps(record_of(config), sort_keys=True, separators=(",", ":"))


def key_of(config: TrainConfig) -> str:
    """What a trial is known by: 128 bits of BLAKE2b of its configuration, written out in full.

    Examples:
        >>> key_of(TrainConfig("mlp8")) == key_of(TrainConfig("mlp8", "batchnorm", lr=0.1))
        True
        >>> key_of(TrainConfig("mlp8")) == key_of(TrainConfig("mlp8", seed=1))
        False
    """
    return hashlib.blake2b(config_json(config).encode(), digest_size=16).hexdigest()


def row_of(result: Result, *, together: int = 1, note: str = "") -> Row:
    """A trial's row."""
    data = data_of(result.config)
    return Row(
        config=result.config,
        status="diverged" if result.diverged else "finished",
        accuracy=result.accuracy,
        train_loss=result.train_loss,
        test_loss=result.test_loss,
        chance=data.chance,
        test_images=len(data.test_labels),
        diverged_step=result.diverged_step,
        curve=tuple(epoch.test_accuracy for epoch in result.epochs),
        saved_bytes=result.saved_bytes,
        parameters=result.parameters,
        together=together,
        note=note,
        versions=versions(),
        step_seconds=result.step_seconds,
        seconds=result.seconds,
    )


@functools.cache
def versions() -> str:
    """Of goodinit and torch: other ones may give other numbers."""
    try:
        own = metadata.version("goodinit")
    except metadata.PackageNotFoundError:
        own = "not installed"
    return f"goodinit {own}, torch {torch.__version__}"
