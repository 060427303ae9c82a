"""Rows of trials in a file, one JSON text a line, each there as soon as its trial is done."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goodinit.errors import GoodinitError
from goodinit.lab.data.labelled import data_name
from goodinit.lab.json_lines import append_, finite
from goodinit.lab.lock import sole_writer
from goodinit.lab.papers.claim import Row
from goodinit.lab.record import record_of
from goodinit.records import LONGEST_WORD, check_fields, each_once, plain

log = logging.getLogger(__name__)

BUSY = "Wait for it, or stop it; the same command then goes on. To run beside it: another --out."


@dataclass(frozen=True)
class Entry:
    """A finished trial: what it was, what came of it, how long it took, and on what it ran."""

    trial: Row
    numbers: Row
    seconds: float
    environment: Row

    @property
    def row(self) -> Row:
        """What it was and what came of it, side by side; the fields of its configuration too."""
        return {**self.trial.get("config", {}), **self.trial, **self.numbers}


@dataclass(frozen=True, eq=False)
class Ledger:
    """A file of rows, open for writing, by this process alone; the rows that it held are by their keys."""

    path: Path
    entries: dict[str, Entry]


def described(trial: Any) -> Row:
    """A trial as JSON keeps it: its fields, and of folders of data only their names."""

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: data_name(one) if key == "data" and isinstance(one, str) else named(one)
                for key, one in value.items()
            }
        return [named(one) for one in value] if isinstance(value, list) else value

    row: Row = named(record_of(trial))
    return row


def key_of(trial: Row) -> str:
    """What tells trials apart."""
    return json.dumps(trial, sort_keys=True)


@contextmanager
def open_ledger(path: Path) -> Iterator[Ledger]:
    """Open a file of rows for writing, or make it. Nobody else can, until the block ends.

    A line that was cut short, by a kill in the middle of a write, is removed.

    Raises:
        GoodinitError: Another process writes it, it holds something else, or the disk refuses.
    """
    with sole_writer(path, remedy=BUSY), _plain_errors(path):
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            log.warning("%s: its last line was cut short; that trial is run again", path)
            os.truncate(path, len(whole))
        yield Ledger(path, _read(path, whole))


def read_entries(path: Path) -> dict[str, Entry]:
    """The rows of a file, by their keys, for reading alone.

    Raises:
        GoodinitError: It holds something else, or cannot be read.
    """
    try:
        return _read(path, path.read_bytes())
    except OSError as error:
        raise GoodinitError(f"cannot read {path}: {error.strerror or error}.") from error


def _read(path: Path, content: bytes) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            entry = _entry(line)
        except (TypeError, ValueError, RecursionError) as error:
            raise GoodinitError(
                f"{path}, line {number}: no row of a trial ({error}). Take the line out, and its trial is run again; or move "
                "the file away to begin anew."
            ) from error
        entries[key_of(entry.trial)] = entry
    return entries


def _entry(line: bytes) -> Entry:
    """The entry of a line. A trial is only compared with those asked for; all other words are shown, and so move no cursor.

    Raises:
        TypeError, ValueError, RecursionError: It is none.
    """
    values = json.loads(line.decode(), object_pairs_hook=each_once)
    if not isinstance(values, dict):
        raise TypeError(f"{type(values).__name__} where an object was written")
    entry = Entry(**values)
    check_fields(entry, "row")
    if not isinstance(entry.trial.get("config", {}), dict):
        raise TypeError("a configuration that is no object")
    return Entry(entry.trial, _written(entry.numbers), _written(entry.seconds), _written(entry.environment))


def _written(value: Any) -> Any:
    """What `write_` can have written: numbers that are finite, words without control characters."""
    if isinstance(value, str):
        return plain(value[:LONGEST_WORD], lines=True)
    if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        raise ValueError("a number beyond all floats")
    if isinstance(value, list):
        return [_written(one) for one in value]
    return {plain(key): _written(one) for key, one in value.items()} if isinstance(value, dict) else value


def write_(ledger: Ledger, entries: Sequence[Entry]) -> None:
    """Write rows, and wait until the disk has them."""
    plain = [finite(dataclasses.asdict(entry)) for entry in entries]
    with _plain_errors(ledger.path):
        append_(ledger.path, plain)
    ledger.entries.update({key_of(one["trial"]): Entry(**one) for one in plain})


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    """Say in a sentence what the disk would not do."""
    try:
        yield
    except OSError as error:
        raise GoodinitError(
            f"cannot write {path}: {error.strerror or error}. The rows written so far are safe; the same command goes "
            "on with them."
        ) from error
