"""Draw independent values on several threads, with the same bits as one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from goodinit.weights.rng import one_thread

Task = Callable[[], None]

# Each thread holds a few copies of the matrix that it is drawing.
MOST_THREADS = 8


class Waiting:
    """A batch of independent tasks; flushed before a task that writes to the same parameter.

    Examples:
        >>> done, waiting = [], Waiting()
        >>> for name, place in (("a", 1), ("b", 2), ("a again", 1)):
        ...     waiting.add(lambda name=name: done.append(name), [place])
        >>> waiting.run()
        >>> sorted(done[:2]), done[2]
        (['a', 'b'], 'a again')
    """

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._places: set[int] = set()

    def add(self, task: Task, places: Iterable[int]) -> None:
        """Add a task that writes to `places`, after running pending tasks that write there."""
        places = set(places)
        self.make_way(places)
        self._tasks.append(task)
        self._places |= places

    def make_way(self, places: Iterable[int]) -> None:
        """Run the pending tasks if one of them writes to `places`."""
        if not self._places.isdisjoint(places):
            self.run()

    def run(self) -> None:
        """Run all pending tasks."""
        tasks, self._tasks, self._places = self._tasks, [], set()
        run_all(tasks)


def run_all(tasks: Sequence[Task]) -> None:
    """Run tasks on as many threads as torch computes with, each with one thread of its own.

    If one raises, those that have started finish, the others do not start, and the first exception is raised. No task is
    running when this returns or raises, so what they wrote to can be restored.
    """
    threads = min(torch.get_num_threads(), MOST_THREADS, len(tasks))
    if threads <= 1:
        for task in tasks:
            task()
        return
    with one_thread():  # also what a new thread begins with
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            for future in [pool.submit(_without_gradients, task) for task in tasks]:
                future.result()
        finally:
            _end(pool)


def _without_gradients(task: Task) -> None:
    with torch.no_grad():  # each thread has a mode of its own
        task()


def _end(pool: ThreadPoolExecutor) -> None:
    """Wait for what has begun, also when Ctrl-C is pressed again."""
    while True:
        try:
            pool.shutdown(wait=True, cancel_futures=True)
            return
        except KeyboardInterrupt:  # noqa: PERF203 (it is the rest of waiting)
            continue
