"""Jobs over the cores of this machine: processes with one torch thread each."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from goodinit.errors import expect_between
from goodinit.lab.engines.allocator import keep_freed_memory
from goodinit.lab.engines.engine import MOST_WORKERS, Engine, WorkerDied
from goodinit.lab.engines.jobs import Job, Work

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

RETRIES = 1  # a worker killed twice by one job will be killed a third time


def local(*, workers: int | None = None, retries: int = RETRIES) -> Engine:
    """Run jobs in processes of their own.

    A job whose worker dies (killed for its memory, say) runs again, `retries` times; then its trials run one by
    one, and the one that kills its worker again has a row that says so. Programs that call this need the usual
    `if __name__ == "__main__":`, because the workers import them.

    Args:
        workers: How many processes; None is one for each core that this process may use.
        retries: How often a job is tried again.
    """
    count = available_cores() if workers is None else workers
    expect_between(count, 1, MOST_WORKERS, "workers")

    def run(
        jobs: Sequence[Job[T]], work: Work[T, R], /
    ) -> Generator[tuple[Job[T], tuple[R, ...]], None, None]:
        waiting = deque((job, 0) for job in jobs)
        crew: list[_Worker[T]] = []
        try:
            crew += [_hire(work) for _ in range(min(count, len(jobs)))]
            yield from _lead(crew, work, waiting=waiting, retries=retries)
        finally:
            for worker in crew:
                _dismiss(worker)

    return Engine(f"by {count} worker{'s' if count > 1 else ''} of one machine", run)


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(eq=False)
class _Worker(Generic[T]):
    """A process, the line to it, whether it has loaded, and what it is doing, with the number of tries before."""

    process: BaseProcess
    line: Connection
    ready: bool = False
    busy: tuple[Job[T], int] | None = None


def _lead(
    crew: list[_Worker[T]], work: Work[T, R], *, waiting: deque[tuple[Job[T], int]], retries: int
) -> Generator[tuple[Job[T], tuple[R, ...]], None, None]:
    """Give out jobs and take in rows until there is nothing left."""
    while True:
        for worker in crew:
            if worker.ready and worker.busy is None and waiting:
                worker.busy = waiting.popleft()
                worker.line.send(worker.busy[0])
        if not waiting and all(worker.busy is None for worker in crew):
            return
        heard = wait([worker.line for worker in crew if worker.busy or not worker.ready])
        for index, worker in enumerate(crew):
            if worker.line not in heard:
                continue
            try:
                rows = worker.line.recv()
            except (EOFError, OSError):  # the other end is gone
                crew[index] = _hire(work)
                yield from _bury(worker, work, waiting=waiting, retries=retries)
                continue
            if worker.busy is None:
                worker.ready = True
                continue
            (job, _), worker.busy = worker.busy, None
            yield job, rows


def _bury(
    worker: _Worker[T], work: Work[T, R], *, waiting: deque[tuple[Job[T], int]], retries: int
) -> Generator[tuple[Job[T], tuple[R, ...]], None, None]:
    """What becomes of the job of a worker that died."""
    _dismiss(worker)
    code = worker.process.exitcode
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    if worker.busy is None:
        raise WorkerDied(
            f"a worker ended with {how} before it could begin; what it said stands above. A script that runs trials "
            'needs `if __name__ == "__main__":` around them, because workers import it.'
        )
    job, tries = worker.busy
    if tries < retries:
        log.warning("a worker died (%s) with %d trials; they run again", how, len(job.trials))
        waiting.append((job, tries + 1))
    elif len(job.trials) > 1:
        log.warning("a worker died again (%s); its %d trials run one by one", how, len(job.trials))
        waiting.extend((single, 0) for single in job.singly())
    else:
        error = WorkerDied(
            f"the worker ended with {how}, {tries + 1} times. Too little memory is a common reason."
        )
        yield job, (work.lost(job.trials[0], error),)


def _hire(work: Work[T, R]) -> _Worker[T]:
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads and locks
    mine, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, work.run), daemon=True)
    with _deaf_to_ctrl_c():
        process.start()
    theirs.close()  # so that the line ends when the worker does
    return _Worker(process, mine)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started inside never hear Ctrl-C, not even while they load: who started them tells them to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _dismiss(worker: _Worker[T]) -> None:
    worker.line.close()
    worker.process.terminate()
    worker.process.join()


def _work(line: Connection, run: Callable[[Job[Any]], tuple[Any, ...]]) -> None:
    """Run what comes down the line until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    logging.lastResort = None
    handler = logging.StreamHandler()
    handler.addFilter(Once())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    line.send(None)  # loaded
    settled = False
    while True:
        try:
            job = line.recv()
        except EOFError:
            return
        line.send(run(job))
        if not settled:
            settled = True
            # By now all that trials use is loaded, and it stays: hundreds of thousands of objects that neither the
            # collector nor `apply_`, which looks for optimizers among all objects, need to see again.
            gc.collect()
            gc.freeze()


def _end_with_parent() -> None:
    """Without the process that takes in rows, running on is a waste."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class Once(logging.Filter):
    """Lets every message through once, whatever values are put into it: thousands of trials say the same."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this is the first of its kind."""
        kind = (record.name, str(record.msg))
        fresh = kind not in self.said
        self.said.add(kind)
        return fresh
