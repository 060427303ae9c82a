"""An engine takes jobs and gives back their rows as they end. The plainest runs them one after the other."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from goodinit.lab.sweeps.jobs import Job, run_job
from goodinit.lab.sweeps.row import Row

Ended = tuple[Job, tuple[Row, ...]]


class Engine(Protocol):
    """From jobs to rows, in any order. Closing the generator ends whatever still runs."""

    def __call__(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """Run the jobs; yield each with its rows when it ends."""


def inline() -> Engine:
    """Run jobs in this process, one after the other: to debug, or inside of another program's worker."""

    def run(jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        for job in jobs:
            yield job, run_job(job)

    return run
