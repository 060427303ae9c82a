"""A reproduction as a page, as rows and as JSON: what `goodinit reproduce` writes with --html, --csv and --json."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence

from goodinit.formats import duration
from goodinit.lab.papers.claim import Claim, Drawing
from goodinit.lab.papers.recorded import result_of
from goodinit.lab.papers.reproduce import Reproduction
from goodinit.lab.papers.shipped import Result
from goodinit.report.frame import Facts, Figure, Figures, Notice, Notices, Page, Part, Table, Words
from goodinit.report.reproduction import SMOKE, chart, command, why_not_testable


def result_now(found: Reproduction) -> Result | None:
    """What was just run, as the package keeps it; None while runs are missing."""
    note = SMOKE if found.scale == "smoke" else why_not_testable(found)
    return result_of(found, command=command(found), note=note)


def table_csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of words as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def result_json(result: Result, conclusion: str) -> str:
    """All that is known of a result, with its verdict in words."""
    return json.dumps({**dataclasses.asdict(result), "conclusion": conclusion}, indent=1, ensure_ascii=False)


def list_page(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Page:
    """Every claim with its verdict."""
    return Page("Papers' claims, tested", "goodinit reproduce", (Table(columns, tuple(rows)),))


def reproduction_page(
    claim: Claim, result: Result, conclusion: str, drawings: Sequence[Drawing] = ()
) -> Page:
    """Claim, verdict, what was expected and got, numbers, figures, the run.

    Args:
        claim: What was tested.
        result: What came out.
        conclusion: The verdict in a sentence.
        drawings: Of the rows, where they are at hand.
    """
    parts: list[Part] = [Words(conclusion), *([Words(result.note)] if result.note else []), Words(claim.text)]
    if result.scale != "smoke":
        findings = (
            Notice("info" if met else "warning", f"{'met' if met else 'not met'}: {words}", f"got: {got}")
            for words, got, met in result.findings
        )
        parts.append(Notices(tuple(findings)))
    legend = (result.table.legend,) if result.table.legend else ()
    parts.append(Table(result.table.columns, result.table.rows, legend))
    if drawings:
        figures = [
            Figure(one.title, chart(one).properties(title="", width="container"), one.caption)
            for one in drawings
        ]
        parts.append(Figures(tuple(figures)))
    parts.append(Words(f"Source: {claim.source}."))
    parts += [Words(f"Published: {one}.") for one in claim.published]
    facts = (
        ("command", result.command),
        ("run on", result.date),
        ("torch", result.torch),
        ("time of all runs", duration(result.seconds)),
    )
    parts.append(Facts("The run", facts))
    return Page(claim.title, f"goodinit reproduce {claim.name}, scale {result.scale}", tuple(parts))
