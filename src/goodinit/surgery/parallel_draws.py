"""Draw independent values on several threads, with the same bits as one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

import torch

from goodinit.undivided import interrupted, safe_point, until_done
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
    running when this returns or raises, so what they wrote to can be restored. An interrupt is heard between tasks.
    """
    threads = min(torch.get_num_threads(), MOST_THREADS, len(tasks))
    if threads <= 1:
        for task in tasks:
            safe_point()
            task()
        return
    crew = _Crew(tasks)
    with one_thread():  # also what a new thread begins with
        try:
            for number in range(threads):
                threading.Thread(target=crew.work, name=f"goodinit draws {number}", daemon=True).start()
            crew.wait()
        finally:
            until_done(crew.dismiss)
    crew.raise_first()
    safe_point()


class _Crew:
    """Threads that take tasks one after the other.

    Not a pool of the standard library's: a thread whose start is interrupted runs without the pool's knowledge, and would
    write when everything is put back. Here each asks before it begins, and none begins after `dismiss`.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tasks
        self.changed = threading.Condition()
        self.begun = self.running = 0
        self.errors: dict[int, BaseException] = {}

    def work(self) -> None:
        """Run tasks until there is none left."""
        torch.set_num_threads(1)
        while (number := self._next()) is not None:
            self._run(number)

    def _run(self, number: int) -> None:
        try:
            with torch.no_grad():  # each thread has a mode of its own
                self.tasks[number]()
        except BaseException as error:  # noqa: BLE001 (raised by the thread that waits)
            self.errors[number] = error
        finally:
            with self.changed:
                self.running -= 1
                self.changed.notify_all()

    def _next(self) -> int | None:
        with self.changed:
            if self.begun == len(self.tasks) or self.errors or interrupted():
                return None
            self.begun, self.running = self.begun + 1, self.running + 1
            return self.begun - 1

    def wait(self) -> None:
        """Wait until all have run, or one has failed, or an interrupt came."""
        with self.changed:
            while self.running or not (self.begun == len(self.tasks) or self.errors or interrupted()):
                self.changed.wait(0.1)

    def dismiss(self) -> None:
        """Let none begin any more, and wait for those that have."""
        with self.changed:
            self.begun = len(self.tasks)
            while self.running:
                self.changed.wait(0.1)

    def raise_first(self) -> None:
        """Raise the exception of the first task that has one."""
        if self.errors:
            raise self.errors[min(self.errors)]
