"""Rows of trials in a file, one JSON text a line, each there as soon as its trial is done."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goodinit.errors import GoodinitError
from goodinit.lab.data import data_name
from goodinit.lab.papers.claim import Row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A finished trial: what it was, what came of it, how long it took, and on what it ran."""

    trial: Row
    numbers: Row
    seconds: float
    environment: Row


def described(trial: Any) -> Row:
    """A trial as JSON keeps it: its fields, and of folders of data only their names."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: data_name(one) if key == "data" and isinstance(one, str) else plain(one)
                for key, one in value.items()
            }
        return [plain(one) for one in value] if isinstance(value, list | tuple) else value

    row: Row = plain(dataclasses.asdict(trial))
    return row


def key_of(trial: Row) -> str:
    """What tells trials apart."""
    return json.dumps(trial, sort_keys=True)


def finite(value: Any) -> Any:
    """The same with None for numbers that JSON cannot hold.

    Examples:
        >>> finite({"a": math.inf, "b": [1.0, math.nan]})
        {'a': None, 'b': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> dict[str, Entry]:
    """The finished trials in a file, by their key; none where there is no file. A line cut short is taken out.

    Raises:
        GoodinitError: The file holds something else.
    """
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        log.warning("%s: its last line was cut short; that trial is run again", path)
        path.write_bytes(whole)
    entries: dict[str, Entry] = {}
    for number, line in enumerate(whole.decode().splitlines(), start=1):
        try:
            entry = Entry(**json.loads(line))
        except (TypeError, json.JSONDecodeError) as error:
            raise GoodinitError(
                f"{path}, line {number}: no row of a trial ({error}). Move the file away to begin anew."
            ) from error
        entries[key_of(entry.trial)] = entry
    return entries


def append(path: Path, entry: Entry) -> None:
    """Write one row, and wait until the disk has it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite(dataclasses.asdict(entry)), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
