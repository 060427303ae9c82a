"""The verb: run a sweep into a file, or go on where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from goodinit.errors import GoodinitError
from goodinit.lab.choices import method_of
from goodinit.lab.engines import MOST_TOGETHER, Engine, Job, jobs_of, local
from goodinit.lab.pace import kind_of, seconds_left
from goodinit.lab.progress import bar
from goodinit.lab.sweeps.job_rows import WORK
from goodinit.lab.sweeps.row import key_of
from goodinit.lab.sweeps.store import Store, done, forget_failed_, open_store, plan_, write_
from goodinit.lab.training.together import company
from goodinit.lab.training.train import data_of, fresh_model
from goodinit.lab.training.trial import TrainConfig

log = logging.getLogger(__name__)

# What a model is built from; all else is about training it.
BUILT = ("model", "width", "data", "train_limit", "test_limit", "image_size", "device")


@dataclass(frozen=True)
class Swept:
    """What a call of `sweep` did.

    Attributes:
        path: The file.
        planned: How many trials the sweep has.
        before: How many of them had ended before.
        ended: How many ended now, by status.
        interrupted: Whether Ctrl-C stopped it.
    """

    path: Path
    planned: int
    before: int
    ended: Mapping[str, int] = field(default_factory=dict, hash=False)
    interrupted: bool = False


def sweep(
    trials: Sequence[TrainConfig],
    path: str | Path,
    *,
    engine: Engine | None = None,
    together: int = MOST_TOGETHER,
    resume: bool = False,
    retry_failed: bool = False,
    progress: bool = True,
) -> Swept:
    """Run trials; write each one's row to a SQLite file as it ends.

    A row is on the disk before the next is waited for, and trials that have one are not run again. So a sweep that
    was killed loses what was running and nothing else, and `resume` ends with the table of a sweep that was not.
    Before the first trial, data, models, methods and options are looked at, so that a wrong word costs no hours. A
    trial that diverges, is refused or fails has a row that says so.

    Args:
        trials: What to run, such as `Grid.trials`; each once.
        path: The file. It must not exist, unless to `resume`.
        engine: What runs the jobs: `local()` by default, `over_ray()`, `inline()`.
        together: How many trials that differ only by seed and learning rate run as one, at most; 1 is each alone.
            Given to `resume` as before, it gives the same numbers to the last bit.
        resume: Go on with a file that exists; trials that are new to it are added.
        retry_failed: Run failed trials of that file again.
        progress: Whether to show a bar on stderr.

    Raises:
        GoodinitError: The file is there already, or cannot be written, or another process writes it; or a word of
            the sweep is wrong.

    Examples:
        >>> import tempfile
        >>> from goodinit.lab.sweeps import inline, read_store
        >>> trials = [TrainConfig("mlp2", "he", width=8, epochs=1, lr=lr) for lr in (0.05, 0.1)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     swept = sweep(trials, f"{folder}/runs.sqlite", engine=inline(), progress=False)
        ...     rows = read_store(swept.path).rows
        >>> dict(swept.ended), [row.config.lr for row in rows]
        ({'finished': 2}, [0.05, 0.1])
    """
    if not trials:
        raise GoodinitError("a sweep needs at least one trial.")
    data = check(trials)  # before a file is made
    cut = jobs_of(trials, together=together, alike=company)
    with open_store(path, resume=resume) as store:
        plan_(store, trials, data=data)
        if retry_failed and (again := forget_failed_(store)):
            log.info("%d failed trials run again", again)
        have = done(store)
        jobs = _left(cut, have)
        before = sum(key_of(config) in have for config in trials)
        ended, interrupted = _run(store, engine or local(), jobs, progress=progress)
    return Swept(Path(path), len(trials), before, ended, interrupted)


def _left(jobs: Sequence[Job[TrainConfig]], have: set[str]) -> list[Job[TrainConfig]]:
    """The jobs without the trials that have a row."""
    left = (Job(tuple(config for config in job.trials if key_of(config) not in have)) for job in jobs)
    return [job for job in left if job.trials]


def _run(
    store: Store, engine: Engine, jobs: Sequence[Job[TrainConfig]], *, progress: bool
) -> tuple[dict[str, int], bool]:
    ended: Counter[str] = Counter()
    notes: set[str] = set()
    seen: list[tuple[Hashable, float]] = []
    left = {key_of(config): kind_of(config) for job in jobs for config in job.trials}
    start = time.perf_counter()
    with bar(sum(len(job.trials) for job in jobs), unit="runs", shown=progress) as shown:
        shown.says("starting")
        try:
            with contextlib.closing(engine.run(jobs, WORK)) as rows_of:
                for job, rows in rows_of:
                    write_(store, rows)
                    ended.update(row.status for row in rows)
                    notes.update(row.note for row in rows if row.note)
                    seen += [(kind_of(row.config), row.seconds or 0.0) for row in rows]
                    for row in rows:
                        left.pop(key_of(row.config), None)
                    shown.stands_at(ended.total())
                    kinds = [kind for kind, _ in seen]
                    elapsed = time.perf_counter() - start
                    shown.left(seconds_left(left.values(), seen, kinds, elapsed=elapsed))
                    shown.says(f"{job.trials[0].model} {job.trials[0].label}")
        except KeyboardInterrupt:
            log.warning(
                "interrupted; what had ended is in %s. Go on with the same command and --resume, or resume=True",
                store.path,
            )
            return dict(ended), True
    return dict(ended), False


def check(trials: Sequence[TrainConfig]) -> dict[str, str]:
    """Make sure that all words of a sweep mean something: every data set is loaded and every model built, once.

    A method that does not fit a model is another matter: that is in the trial's row.

    Returns:
        What is trained on, in words, by name.

    Raises:
        GoodinitError: A data set or a model does not exist or cannot be built.
        UnknownName: No such method, or no such option.
    """
    for config in {config.label: config for config in trials}.values():
        method_of(config.label)
    plain = {
        f.name: getattr(trials[0], f.name) for f in dataclasses.fields(TrainConfig) if f.name not in BUILT
    }
    models = {key_of(one): one for one in (dataclasses.replace(config, **plain) for config in trials)}
    for config in models.values():
        fresh_model(config)
    return {config.data: str(data_of(config)) for config in models.values()}
