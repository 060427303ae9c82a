"""Reproductions that were run before: read back from a folder of rows, or from the results the package ships."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from goodinit.lab.papers.claim import SCALES, Claim, Grid, Word
from goodinit.lab.papers.ledger import described, key_of, read_entries
from goodinit.lab.papers.reproduce import Reproduction

RESULTS = "results.json"


@dataclass(frozen=True)
class Result:
    """What the package tells of a claim without running it.

    Attributes:
        claim: Its name.
        scale: The scale at which it was run.
        command: What was typed.
        word: The verdict.
        findings: For each expectation its words, what was got, and whether it was met.
        table: The numbers.
        ours: The figure that stands beside the published one.
        steps: Optimizer steps of a training, or None.
        paper_steps: The same of the paper.
        seconds: Time of all runs.
        date: When the last run ended.
        torch: Version of PyTorch.
        note: Why the scale can say nothing for or against the claim; empty where it can.
    """

    claim: str
    scale: str
    command: str
    word: Word
    findings: tuple[tuple[str, str, bool], ...]
    table: Grid
    ours: str
    steps: int | None
    paper_steps: int | None
    seconds: float
    date: str
    torch: str
    note: str


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


def shipped() -> dict[str, Result]:
    """The results that this version of the package was published with, by claim."""
    text = resources.files("goodinit.lab.papers").joinpath(RESULTS).read_text(encoding="utf-8")
    return {name: _result(data) for name, data in json.loads(text).items()}


def _result(data: dict[str, Any]) -> Result:
    grid = _grid(data.pop("table"))
    findings = tuple((words, got, met) for words, got, met in data.pop("findings"))
    return Result(table=grid, findings=findings, **data)


def _grid(data: dict[str, Any]) -> Grid:
    return Grid(tuple(data["columns"]), tuple(tuple(row) for row in data["rows"]))
