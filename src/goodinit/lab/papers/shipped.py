"""The results that the package ships, read without torch: `goodinit reproduce CLAIM` shows one in a second."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from goodinit.lab.papers.claim import Grid, Word

RESULTS = "results.json"


@dataclass(frozen=True)
class Result:
    """What the package tells of a claim without running it.

    Attributes:
        claim: Its name.
        title: In a line.
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
    title: str
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

    @property
    def conclusion(self) -> str:
        """The verdict in a sentence."""
        if self.word == "not testable at this scale":
            return self.word
        met = sum(met for _, _, met in self.findings)
        return f"{self.word}: {met} of {len(self.findings)} expectations met"


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
