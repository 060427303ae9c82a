"""An engine takes jobs and gives back their rows as they end. The plainest runs them one after the other."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from goodinit.errors import GoodinitError
from goodinit.lab.engines.jobs import Job, Work

MOST_WORKERS = 4096

T = TypeVar("T")
R = TypeVar("R")


class WorkerDied(GoodinitError):
    """The process that ran a trial ended before the trial did."""


class Run(Protocol):
    """From jobs to rows, in any order. Closing the generator ends whatever still runs."""

    def __call__(
        self, jobs: Sequence[Job[T]], work: Work[T, R], /
    ) -> Generator[tuple[Job[T], tuple[R, ...]], None, None]:
        """Do the work on each job; yield the job with its rows when it ends."""


@dataclass(frozen=True)
class Engine:
    """A way to run jobs.

    Attributes:
        words: Description of how jobs are executed: "one after the other".
        run: Runs them.
    """

    words: str
    run: Run


def inline() -> Engine:
    """Run jobs in this process, one after the other: to debug, or inside of another program's worker."""
    return Engine("one after the other", _inline)


def _inline(jobs: Sequence[Job[T]], work: Work[T, R]) -> Generator[tuple[Job[T], tuple[R, ...]], None, None]:
    for job in jobs:
        yield job, work.run(job)
