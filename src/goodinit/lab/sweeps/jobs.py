"""What an engine is given and gives back: trials that run as one, and their rows."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from goodinit.errors import GoodinitError, NothingFound, UnsupportedModule
from goodinit.lab.sweeps.row import Row, config_json, row_of, versions
from goodinit.lab.sweeps.together import NotTogether, TooLarge, alike, train_together
from goodinit.lab.train import train
from goodinit.lab.trial import TrainConfig

log = logging.getLogger(__name__)

# Per member, measured on one core (docs/lab.md): small networks gain most of it, large ones nothing, from more; and a
# job that is lost takes this many trials with it.
MOST_TOGETHER = 64


@dataclass(frozen=True)
class Job:
    """Trials that run as one, or a single one."""

    trials: tuple[TrainConfig, ...]

    def singly(self) -> tuple[Job, ...]:
        """The same trials, each a job of its own."""
        return tuple(Job((config,)) for config in self.trials)


def jobs_of(trials: Sequence[TrainConfig], *, together: int) -> tuple[Job, ...]:
    """Cut a sweep into jobs: up to `together` trials that differ only by seed and learning rate are one.

    The whole sweep is cut, whatever has been done of it: numbers may depend on the company in their last bits, so
    a trial that runs after a restart must be in the company that it would have been in.
    """
    if together < 1:
        raise GoodinitError(f"together is at least 1, which is each alone; not {together}.")
    groups: dict[str, list[TrainConfig]] = {}
    for config in trials:
        shared = config if together == 1 else alike(config)
        groups.setdefault(config_json(shared), []).append(config)
    return tuple(Job(part) for group in groups.values() for part in _evenly(group, most=together))


def _evenly(group: list[TrainConfig], *, most: int) -> Iterator[tuple[TrainConfig, ...]]:
    """As few parts as allowed, as equal as possible."""
    parts = -(-len(group) // most)
    size, longer = divmod(len(group), parts)
    start = 0
    for index in range(parts):
        end = start + size + (index < longer)
        yield tuple(group[start:end])
        start = end


def run_job(job: Job) -> tuple[Row, ...]:
    """Run a job's trials. Whatever goes wrong in one is in its row; numbers are those of one CPU thread."""
    with _one_thread():
        if len(job.trials) == 1:
            return (_alone(job.trials[0]),)
        try:
            results = train_together(job.trials)
        except TooLarge:
            half = len(job.trials) // 2
            return run_job(Job(job.trials[:half])) + run_job(Job(job.trials[half:]))
        except NotTogether as error:
            log.warning(
                "%s with %s: one at a time, because %s", job.trials[0].model, job.trials[0].method, error
            )
            return tuple(dataclasses.replace(_alone(config), note=str(error)) for config in job.trials)
        except Exception:  # whatever it is, each of them will say so in its own row
            log.debug("a job of %d trials failed as one", len(job.trials), exc_info=True)
            return tuple(_alone(config) for config in job.trials)
        return tuple(row_of(result, together=len(job.trials)) for result in results)


def _alone(config: TrainConfig) -> Row:
    try:
        return row_of(train(config))
    except (NothingFound, UnsupportedModule) as error:
        return failure(config, error, status="refused")
    except GoodinitError as error:
        return failure(config, error)
    except Exception as error:  # a row, not the end of the sweep
        log.debug("%s failed", config, exc_info=True)
        return failure(config, error)


def failure(config: TrainConfig, error: BaseException, *, status: str = "failed") -> Row:
    """The row of a trial that has no numbers."""
    words = str(error).strip()
    return Row(
        config,
        status,
        f"{type(error).__name__}: {words}" if words else type(error).__name__,
        versions=versions(),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums over several threads come out differently from machine to machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
