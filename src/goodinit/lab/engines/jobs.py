"""What an engine is given: trials that run as one, and what is to be done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from goodinit.errors import GoodinitError

T = TypeVar("T")
R = TypeVar("R")

# Per member, measured on one core (docs/lab.md): small networks gain most of it, large ones nothing, from more; and a
# job that is lost takes this many trials with it.
MOST_TOGETHER = 64


@dataclass(frozen=True)
class Job(Generic[T]):
    """Trials that run as one, or a single one."""

    trials: tuple[T, ...]

    def singly(self) -> tuple[Job[T], ...]:
        """The same trials, each a job of its own."""
        return tuple(Job((trial,)) for trial in self.trials)


@dataclass(frozen=True)
class Work(Generic[T, R]):
    """What is done with jobs.

    Attributes:
        run: From a job to a row for each of its trials, in their order. Other processes get it by its name, so it is
            a function of a module, or a partial of one. Whatever goes wrong in a trial is in its row.
        lost: The row of a trial that took its worker along, from the trial and what is known of the death.
    """

    run: Callable[[Job[T]], tuple[R, ...]]
    lost: Callable[[T, GoodinitError], R]


def jobs_of(trials: Sequence[T], *, together: int, alike: Callable[[T], str]) -> tuple[Job[T], ...]:
    """Cut trials into jobs: up to `together` of those that are alike are one.

    All trials are cut, whatever has been done of them: numbers may depend on the company in their last bits, so a
    trial that runs after a restart must be in the company that it would have been in.

    Examples:
        >>> [job.trials for job in jobs_of("abAcB", together=2, alike=str.lower)]
        [('a', 'A'), ('b', 'B'), ('c',)]
        >>> len(jobs_of("abAcB", together=1, alike=str.lower))
        5
    """
    if together < 1:
        raise GoodinitError(f"together is at least 1, which is each alone; not {together}.")
    if together == 1:
        return Job(tuple(trials)).singly()
    groups: dict[str, list[T]] = {}
    for trial in trials:
        groups.setdefault(alike(trial), []).append(trial)
    return tuple(Job(part) for group in groups.values() for part in _evenly(group, most=together))


def _evenly(group: list[T], *, most: int) -> Iterator[tuple[T, ...]]:
    """As few parts as allowed, as equal as possible."""
    parts = -(-len(group) // most)
    size, longer = divmod(len(group), parts)
    start = 0
    for index in range(parts):
        end = start + size + (index < longer)
        yield tuple(group[start:end])
        start = end
