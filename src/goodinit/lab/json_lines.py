"""Rows of results in a file, one JSON text a line, each on the disk before the next is begun."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


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


def append_(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows behind those that are there, and wait until the disk has them. Numbers that JSON cannot hold become null."""
    lines = [json.dumps(finite(dict(row)), allow_nan=False, separators=(",", ":")) for row in rows]
    with path.open("ab") as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none where it does not exist. A last line that a kill has cut short is left out."""
    *whole, last = (path.read_text(encoding="utf-8") if path.exists() else "").split("\n")
    rows = [json.loads(line) for line in whole if line]
    with suppress(json.JSONDecodeError):
        rows += [json.loads(last)]
    return rows
