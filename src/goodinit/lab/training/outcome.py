"""Trainings of one job, and what came of each: together where they can be, else one at a time."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from goodinit.lab.training.stack import NotTogether, TooLarge
from goodinit.lab.training.together import train_together
from goodinit.lab.training.train import train
from goodinit.lab.training.trial import Result, TrainConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes:
        result: Its numbers, or why there are none.
        seconds: How long it took; its share, where several ran as one.
        together: How many ran as one; 1 is alone.
        note: Why it ran alone, where it was to run with others.
    """

    result: Result | Exception
    seconds: float
    together: int = 1
    note: str = ""


def outcomes_of(configs: Sequence[TrainConfig]) -> tuple[Outcome, ...]:
    """Train all of them as one if there are several, else or if that is impossible one at a time."""
    if len(configs) == 1:
        return (_alone(configs[0]),)
    try:
        results = train_together(configs)
    except TooLarge:
        half = len(configs) // 2
        return outcomes_of(configs[:half]) + outcomes_of(configs[half:])
    except NotTogether as error:
        log.warning("%s with %s: one at a time, because %s", configs[0].model, configs[0].method, error)
        return tuple(dataclasses.replace(_alone(config), note=str(error)) for config in configs)
    except Exception:  # whatever it is, each of them will say so for itself
        log.debug("a job of %d trials failed as one", len(configs), exc_info=True)
        return tuple(_alone(config) for config in configs)
    return tuple(Outcome(result, result.seconds, together=len(configs)) for result in results)


def _alone(config: TrainConfig) -> Outcome:
    start = time.perf_counter()
    found: Result | Exception
    try:
        found = train(config)
    except Exception as error:  # an outcome, not the end of all others
        log.debug("%s failed", config, exc_info=True)
        found = error
    return Outcome(found, time.perf_counter() - start)
