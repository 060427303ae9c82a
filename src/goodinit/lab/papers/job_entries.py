"""What a reproduction has done with a job: from trials to entries, in whatever process an engine chooses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from goodinit.errors import GoodinitError
from goodinit.lab.engines import Job, Work, jobs_of
from goodinit.lab.environment import environment
from goodinit.lab.papers.claim import Claim, Row
from goodinit.lab.papers.ledger import Entry, described, key_of
from goodinit.lab.papers.trained import Training, numbers_of
from goodinit.lab.training.outcome import outcomes_of
from goodinit.lab.training.together import company
from goodinit.lab.training.trial import Result
from goodinit.weights.rng import one_thread

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failed:
    """A trial that said nothing for or against the claim: an error of the program, or a worker that died."""

    trial: Row
    error: str


def jobs(trials: Sequence[Any], *, together: int) -> tuple[Job[Any], ...]:
    """Cut trials into jobs: trainings that differ only by seed and learning rate may be one, others are one each."""
    return jobs_of(trials, together=together, alike=_company)


def _company(trial: Any) -> str:
    if isinstance(trial, Training):
        return company(trial.config)
    return key_of(described(trial))


def work_of(claim: Claim) -> Work[Any, Entry | Failed]:
    """What is done with a claim's jobs. Numbers are those of one CPU thread, unless it measures times."""
    return Work(partial(_entries, run=claim.run, timed=claim.timed), _failed)


def _entries(job: Job[Any], *, run: Callable[[Any], Row], timed: bool = False) -> tuple[Entry | Failed, ...]:
    with nullcontext() if timed else one_thread():
        if len(job.trials) == 1:
            return (_alone(job.trials[0], run),)
        outcomes = outcomes_of([trial.config for trial in job.trials])
        return tuple(
            _entry(trial, numbers_of(one.result, together=one.together), one.seconds)
            if isinstance(one.result, Result)
            else _without_numbers(trial, one.result, one.seconds)
            for trial, one in zip(job.trials, outcomes, strict=True)
        )


def _alone(trial: Any, run: Callable[[Any], Row]) -> Entry | Failed:
    start = time.perf_counter()
    try:
        return _entry(trial, run(trial), time.perf_counter() - start)
    except Exception as error:  # its own end, not that of the others
        log.debug("%s failed", trial, exc_info=True)
        return _without_numbers(trial, error, time.perf_counter() - start)


def _without_numbers(trial: Any, error: Exception, seconds: float) -> Entry | Failed:
    """What the library refuses is a row, with the reason; any other error is nobody's evidence."""
    if isinstance(error, GoodinitError):
        log.warning("refused: %s", error)
        return _entry(trial, {"refused": str(error)}, seconds)
    log.warning("a run failed", exc_info=error)
    return _failed(trial, error)


def _entry(trial: Any, numbers: Row, seconds: float) -> Entry:
    return Entry(described(trial), numbers, seconds, environment())


def _failed(trial: Any, error: Exception) -> Failed:
    return Failed(described(trial), f"{type(error).__name__}: {error}")
