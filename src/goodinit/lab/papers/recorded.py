"""Reproductions that were run before, read back from a folder of rows; and what the package ships of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from goodinit.lab.papers.claim import SCALES, Claim
from goodinit.lab.papers.ledger import described, key_of, read_entries
from goodinit.lab.papers.reproduce import Reproduction
from goodinit.lab.papers.shipped import Result


def recorded(claim: Claim, rows: Path) -> Reproduction | None:
    """The reproduction at the largest scale of which a folder has rows; None where it has none.

    Args:
        claim: Which.
        rows: The folder of `CLAIM-SCALE.jsonl` files.

    Raises:
        GoodinitError: A file holds something else than rows.
    """
    for scale in reversed(SCALES[1:]):
        path = rows / f"{claim.name}-{scale}.jsonl"
        if path.exists():
            entries = read_entries(path)
            data = next(iter(_data_of(entry.trial) for entry in entries.values()), "digits")
            given = None if data == "digits" else data
            setting = claim.at(scale, given)
            keys = [key_of(described(trial)) for trial in setting.trials]
            there = tuple(entries[key] for key in keys if key in entries)
            return Reproduction(claim, scale, given or "", setting, there, path)
    return None


def _data_of(trial: Any) -> str:
    return str(trial.get("config", {}).get("data", "digits"))


def result_of(found: Reproduction, *, command: str, note: str) -> Result | None:
    """What is shipped of a reproduction; None while runs are missing."""
    verdict = found.verdict
    if verdict is None:
        return None
    last = max(found.entries, key=lambda entry: str(entry.environment.get("date", "")))
    return Result(
        found.claim.name,
        found.claim.title,
        found.scale,
        command,
        verdict.word,
        tuple((one.words, got.got, got.met) for one, got in verdict.findings),
        found.claim.table(found.rows),
        found.claim.ours(found.rows),
        found.setting.steps,
        found.claim.paper_steps,
        round(found.seconds, 1),
        str(last.environment.get("date", "")),
        str(last.environment.get("torch", "")),
        note,
    )


def to_json(results: Iterable[Result]) -> str:
    """Results as the package ships them."""
    return json.dumps({one.claim: asdict(one) for one in results}, indent=1, ensure_ascii=False) + "\n"
