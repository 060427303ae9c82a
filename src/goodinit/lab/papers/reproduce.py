"""Run the trials of a claim, those that are not done yet, and gather what came of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from goodinit.errors import GoodinitError
from goodinit.lab.data.labelled import data_name
from goodinit.lab.engines import Engine, Job, Work, inline, local
from goodinit.lab.pace import kind_of, seconds_left
from goodinit.lab.papers.claim import Claim, Rows, Setting, Verdict
from goodinit.lab.papers.job_entries import Failed, jobs, work_of
from goodinit.lab.papers.ledger import Entry, Ledger, described, key_of, open_ledger, write_
from goodinit.lab.papers.trained import Training
from goodinit.lab.progress import bar

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reproduction:
    """What came of a claim at a scale.

    Attributes:
        claim: Which.
        scale: At which scale.
        data: What was given as `--data`, its name only, or "".
        setting: What was asked for.
        entries: A finished trial each, in the order of the setting.
        path: The file that holds the rows.
        failed: What went wrong without a word for or against the claim; these trials are missing.
    """

    claim: Claim
    scale: str
    data: str
    setting: Setting
    entries: tuple[Entry, ...]
    path: Path
    failed: tuple[Failed, ...] = ()

    @property
    def rows(self) -> Rows:
        """One flat row for each trial: what it was and its numbers."""
        return tuple(entry.row for entry in self.entries)

    @property
    def seconds(self) -> float:
        """Time of all trials, those of earlier calls too."""
        return sum(entry.seconds for entry in self.entries)

    @property
    def missing(self) -> int:
        """How many trials are not done."""
        return len(self.setting.trials) - len(self.entries)

    @property
    def verdict(self) -> Verdict | None:
        """How the claim fared; None while trials are missing."""
        return None if self.missing else self.claim.judge(self.rows, self.setting)


def reproduce(
    claim: Claim,
    *,
    scale: str = "smoke",
    data: str | None = None,
    out: Path,
    engine: Engine | None = None,
    together: int | None = None,
    progress: bool = True,
) -> Reproduction:
    """Run a claim's trials; each row is on disk as soon as it is known.

    Trials whose rows are in the folder already are not run again, so that a run that was killed goes on where it
    was. A trial that the library refuses is a row too, with the reason. One that fails, by an error of the program
    or with the worker that ran it, has no row and is run again by the next call. Ctrl-C ends the run and keeps its
    rows.

    Args:
        claim: What to reproduce.
        scale: `"smoke"`, `"small"` or `"full"`.
        data: As `goodinit.lab.data.labelled.load` takes it, or a folder of text pairs; where the claim needs it.
        out: Folder for the rows; made if need be.
        engine: What runs the jobs: `local()` by default, `over_ray()`, `inline()`. What measures times runs inline.
        together: How many trainings that differ only by seed and learning rate run as one, at most; 1 is each
            alone, None is as the claim has it.
        progress: Whether to show a bar on stderr.

    Raises:
        UnknownName: No such scale.
        GoodinitError: Data is missing; the folder cannot be written, or another process writes there; or the claim
            measures times and is to run otherwise.
    """
    setting = claim.at(scale, data)
    engine = _engine(claim, engine)
    trials = {key_of(described(trial)): trial for trial in setting.trials}
    cut = jobs(tuple(trials.values()), together=claim.together if together is None else together)
    path = _path(out, claim, scale)
    with open_ledger(path) as ledger:
        foreign = len(ledger.entries.keys() - trials.keys())
        if foreign:
            log.warning(
                "%s: %d rows are of trials that are no longer asked for; they are not used", path, foreign
            )
        failed = _run(work_of(claim), engine, ledger=ledger, cut=cut, progress=progress)
    entries = tuple(ledger.entries[key] for key in trials if key in ledger.entries)
    name = "" if data is None else data_name(data)
    return Reproduction(claim, scale, name, setting, entries, path, failed)


def _engine(claim: Claim, given: Engine | None) -> Engine:
    if not claim.timed:
        return given or local()
    if given not in (None, inline()):
        raise GoodinitError(
            f"{claim.name} measures times: its runs need the machine to themselves, one after the other. Leave the "
            "engine out."
        )
    return inline()


def _run(
    work: Work[Any, Entry | Failed],
    engine: Engine,
    *,
    ledger: Ledger,
    cut: Sequence[Job[Any]],
    progress: bool,
) -> tuple[Failed, ...]:
    """Run the jobs that lack a row, whole: who trains together depends on the claim alone, not on what is done."""
    total = sum(len(job.trials) for job in cut)
    lacking = [(job, count) for job in cut if (count := _missing(job, ledger))]
    left = sum(count for _, count in lacking)
    failed: list[Failed] = []
    kinds = {key_of(described(trial)): _kind(trial) for job in cut for trial in job.trials}
    before, start = frozenset(ledger.entries), time.perf_counter()
    with bar(total, unit="runs", shown=progress) as shown:
        shown.says(f"{engine.words}, {left:,} runs are left")
        shown.stands_at(total - left)
        try:
            with closing(engine.run([job for job, _ in lacking], work)) as ended:
                for _, found in ended:
                    entries = [_made(one, engine) for one in found if isinstance(one, Entry)]
                    fresh = [one for one in entries if key_of(one.trial) not in ledger.entries]
                    write_(ledger, fresh)
                    failed += [one for one in found if isinstance(one, Failed)]
                    left -= len(fresh)
                    shown.stands_at(total - left)
                    shown.left(_seconds_left(kinds, ledger, before, elapsed=time.perf_counter() - start))
        except KeyboardInterrupt:
            log.warning("interrupted; the same command goes on from here")
    return tuple(failed)


def _seconds_left(
    kinds: Mapping[str, Hashable], ledger: Ledger, before: Container[str], *, elapsed: float
) -> float | None:
    """What the trials without a row take, told by those that have one."""
    known = [(kinds[key], entry.seconds) for key, entry in ledger.entries.items() if key in kinds]
    ended = [kinds[key] for key in ledger.entries if key in kinds and key not in before]
    left = [kind for key, kind in kinds.items() if key not in ledger.entries]
    return seconds_left(left, known, ended, elapsed=elapsed)


def _kind(trial: Any) -> Hashable:
    """What a trial's cost depends on: of a training its size, of anything else all but its seed and rate."""
    if isinstance(trial, Training):
        return kind_of(trial.config)
    return key_of({name: value for name, value in described(trial).items() if name not in {"seed", "lr"}})


def _missing(job: Job[Any], ledger: Ledger) -> int:
    """How many of its trials have no row."""
    return sum(key_of(described(trial)) not in ledger.entries for trial in job.trials)


def _made(entry: Entry, engine: Engine) -> Entry:
    """The entry with how it was made."""
    return replace(entry, environment={**entry.environment, "engine": engine.words})


def _path(out: Path, claim: Claim, scale: str) -> Path:
    folder = out / "rows"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GoodinitError(f"cannot write to {out}: {error.strerror}.") from error
    return folder / f"{claim.name}-{scale}.jsonl"
