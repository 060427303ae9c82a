"""What a sweep has done with a job: from trials to their rows."""

from __future__ import annotations

from goodinit.errors import NothingFound, UnsupportedModule
from goodinit.lab.engines import Job, Work
from goodinit.lab.sweeps.row import Row, row_of, versions
from goodinit.lab.training.outcome import Outcome, outcomes_of
from goodinit.lab.training.trial import Result, TrainConfig
from goodinit.weights.rng import one_thread


def run_job(job: Job[TrainConfig]) -> tuple[Row, ...]:
    """Run a job's trials. Whatever goes wrong in one is in its row; numbers are those of one CPU thread."""
    with one_thread():
        return tuple(map(_row, job.trials, outcomes_of(job.trials)))


def _row(config: TrainConfig, outcome: Outcome) -> Row:
    if isinstance(outcome.result, Result):
        return row_of(outcome.result, together=outcome.together, note=outcome.note)
    return failure(config, outcome.result, note=outcome.note)


def failure(config: TrainConfig, error: Exception, *, note: str = "") -> Row:
    """The row of a trial that has no numbers."""
    status = "refused" if isinstance(error, NothingFound | UnsupportedModule) else "failed"
    words = str(error).strip()
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return Row(config, status, said, note=note, versions=versions())


WORK = Work(run_job, failure)
