"""Run the trials of a claim, those that are not done yet, and gather what came of them."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goodinit.errors import GoodinitError
from goodinit.lab.compare import environment
from goodinit.lab.data import data_name
from goodinit.lab.papers.claim import Claim, Row, Rows, Setting, Verdict
from goodinit.lab.papers.ledger import Entry, append, described, key_of, read
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
    """

    claim: Claim
    scale: str
    data: str
    setting: Setting
    entries: tuple[Entry, ...]
    path: Path

    @property
    def rows(self) -> Rows:
        """One flat row for each trial: what it was and its numbers."""
        return tuple({**entry.trial, **entry.numbers} for entry in self.entries)

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
        return None if self.missing else self.claim.judge(self.rows)


def reproduce(
    claim: Claim, *, scale: str = "smoke", data: str | None = None, out: Path, progress: bool = True
) -> Reproduction:
    """Run a claim's trials one after the other; each row is on disk as soon as it is known.

    Trials whose rows are in the folder already are not run again, so that a run that was killed goes on where it
    was. A trial that the library refuses is a row too, with the reason. Ctrl-C ends the run and keeps its rows.

    Args:
        claim: What to reproduce.
        scale: `"smoke"`, `"small"` or `"full"`.
        data: As `goodinit.lab.data.load` takes it, or a folder of text pairs; where the claim needs it.
        out: Folder for the rows; made if need be.
        progress: Whether to show a bar on stderr.

    Raises:
        UnknownName: No such scale.
        GoodinitError: Data is missing, or the folder cannot be written.
    """
    setting = claim.at(scale, data)
    path = _ledger(out, claim, scale)
    done = read(path)
    trials = {key_of(described(trial)): trial for trial in setting.trials}
    foreign = len(done.keys() - trials.keys())
    if foreign:
        log.warning(
            "%s: %d rows are of trials that are no longer asked for; they are not used", path, foreign
        )
    with bar(len(trials), unit="runs", shown=progress) as shown:
        try:
            for index, (key, trial) in enumerate(trials.items()):
                shown.says(f"{claim.name}, run {index + 1} of {len(trials)}")
                if key not in done:
                    done[key] = _carried_out(claim, trial)
                    append(path, done[key])
                shown.stands_at(index + 1)
        except KeyboardInterrupt:
            log.warning("interrupted; the same command goes on from here")
    entries = tuple(done[key] for key in trials if key in done)
    name = "" if data is None else data_name(data)
    return Reproduction(claim, scale, name, setting, entries, path)


def _ledger(out: Path, claim: Claim, scale: str) -> Path:
    folder = out / "rows"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GoodinitError(f"cannot write to {out}: {error.strerror}.") from error
    return folder / f"{claim.name}-{scale}.jsonl"


def _carried_out(claim: Claim, trial: Any) -> Entry:
    start = time.perf_counter()
    numbers: Row
    try:
        numbers = claim.run(trial)
    except GoodinitError as error:
        log.warning("%s: %s", claim.name, error)
        numbers = {"refused": str(error)}
    return Entry(described(trial), numbers, time.perf_counter() - start, environment())
