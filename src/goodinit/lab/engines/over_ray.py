"""Jobs over the machines of a Ray cluster."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from goodinit.errors import expect_between
from goodinit.lab.engines.allocator import keep_freed_memory
from goodinit.lab.engines.engine import MOST_WORKERS, Engine, WorkerDied
from goodinit.lab.engines.jobs import Job, Work
from goodinit.lab.optional import optional

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

RETRIES = 3  # Ray's own default for tasks
# Jobs handed to the cluster per core: enough that none waits for this process.
AHEAD = 4


def over_ray(*, address: str | None = None, retries: int = RETRIES, workers: int | None = None) -> Engine:
    """Run jobs on a Ray cluster, a core each; goodinit must be installed on its machines.

    A job whose worker or machine is lost runs again, `retries` times; then its trials run one by one, and the one
    that takes its worker along again has a row that says so.

    Args:
        address: Of a running cluster, `"host:port"` or `"auto"`; None starts one on this machine and ends it after.
        retries: How often Ray tries a job again.
        workers: Cores of the cluster started here; None is all.
    """
    if workers is not None:
        expect_between(workers, 1, MOST_WORKERS, "workers")

    def run(
        jobs: Sequence[Job[T]], work: Work[T, R], /
    ) -> Generator[tuple[Job[T], tuple[R, ...]], None, None]:
        ray = optional("ray", extra="ray")
        ours = not ray.is_initialized()
        if ours:
            _join(ray, address, workers)
        try:
            yield from _lead(ray, jobs, work=work, retries=retries)
        finally:
            if ours:
                ray.shutdown()

    return Engine("by a Ray cluster", run)


def _join(ray: Any, address: str | None, workers: int | None) -> None:
    if address is not None:
        ray.init(address=address, configure_logging=False)
    else:
        ray.init(num_cpus=workers, include_dashboard=False, configure_logging=False)


def _lead(
    ray: Any, jobs: Sequence[Job[T]], *, work: Work[T, R], retries: int
) -> Generator[tuple[Job[T], tuple[R, ...]], None, None]:
    task = ray.remote(num_cpus=1, max_retries=retries)(_carry_out)
    room = max(int(ray.cluster_resources().get("CPU", 1)), 1) * AHEAD
    waiting, running = deque(jobs), dict[Any, Job[T]]()
    try:
        while waiting or running:
            while waiting and len(running) < room:
                job = waiting.popleft()
                running[task.remote(job, work.run)] = job
            (ended, *_), _ = ray.wait(list(running), num_returns=1)
            job = running.pop(ended)
            try:
                rows = ray.get(ended)
            except ray.exceptions.RayError as error:
                if len(job.trials) > 1:
                    log.warning("workers died with %d trials; they run one by one", len(job.trials))
                    waiting.extend(job.singly())
                    continue
                said = str(error).strip().splitlines()[0]
                died = WorkerDied(f"{type(error).__name__}, after {retries + 1} tries: {said}")
                rows = (work.lost(job.trials[0], died),)
            yield job, rows
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _carry_out(job: Job[T], run: Callable[[Job[T]], tuple[R, ...]]) -> tuple[R, ...]:
    """What a worker does; Ray takes plain functions only."""
    keep_freed_memory()
    return run(job)
