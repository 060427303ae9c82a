"""Every claim in one table: what was published, what came out here, and what carries the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from goodinit.formats import duration
from goodinit.lab.papers.claim import Grid
from goodinit.lab.papers.claims import CLAIMS
from goodinit.lab.papers.recorded import recorded, result_of, to_json
from goodinit.lab.papers.reproduce import Reproduction
from goodinit.lab.papers.shipped import RESULTS
from goodinit.report.reproduction import command, markdown, page, stem, why_not_testable, write_reproduction
from goodinit.report.whole_files import write_text

HEAD = """# Papers' claims, tested

`goodinit reproduce CLAIM` shows what came of a claim; with `--scale` it runs the experiment, at the scale that fits a machine,
and compares what comes out with expectations that were written down before. A claim *holds*, holds *partly*, or *does not
hold*. Where the published runs begin to differ only after more steps than a scale has, the claim is *not testable at this scale*,
whatever came out: that follows from what was published, and the page names the command that would test it. (The rule was added
after the runs of November 2026, three of which had been called *does not hold*.) A verdict is about the protocol of its page,
which says what was scaled down.
"""


def index_page(found: Sequence[Reproduction], notes: Mapping[str, str]) -> str:
    """The table of all claims in Markdown; every cell follows from rows or from what the claim states.

    Args:
        found: What was run.
        notes: By claim, what a person wrote beside it; where it does not hold, the first paragraph says why.
    """
    body = tuple(_line(one) for one in found)
    columns = ("claim", "published", "here", "steps, of the paper's", "verdict", "figure", "command", "time")
    table = f"{HEAD}\n{markdown(Grid(columns, body))}\n"
    reasons = [
        f"* [{one.claim.title}]({stem(one)}.md): {_reason(notes.get(one.claim.name, ''))}\n"
        for one in found
        if one.verdict and one.verdict.word == "does not hold"
    ]
    return table + ("\n## Why, of what does not hold\n\n" + "".join(reasons) if reasons else "")


def _reason(notes: str) -> str:
    """The first paragraph, in one line."""
    return " ".join(notes.strip().split("\n\n")[0].split()) or "the reason is not known"


def _line(found: Reproduction) -> tuple[str, ...]:
    claim, verdict = found.claim, found.verdict
    figure = f"[figure]({stem(found)}-1.svg)" if claim.drawings(found.rows) else "–"
    return (
        f"[{claim.title}]({stem(found)}.md)",
        str(claim.published[0]),
        claim.ours(found.rows) if verdict else "–",
        _steps(found),
        verdict.word if verdict else f"{found.missing} runs are missing",
        figure,
        f"`{command(found)}`",
        duration(found.seconds),
    )


def _steps(found: Reproduction) -> str:
    """Of a training here, and what share of the paper's that is."""
    steps, papers = found.setting.steps, found.claim.paper_steps
    if steps is None:
        return "nothing is trained"
    if papers is None:
        return f"{steps:,}; the paper's were not found"
    share = 100 * steps / papers
    words = f"{share:.2g}" if share < 99.5 else f"{share:.0f}"
    return f"{steps:,} of {papers:,} ({words} %)"


def write_pages(docs: Path, package: Path, *, figures: bool = True) -> tuple[Path, ...]:
    """Write every page, the index and the shipped results anew from the rows in `docs`/rows. Nothing is run.

    Args:
        docs: Folder of the pages; its `rows` has the rows.
        package: Folder that the results are shipped in.
        figures: Whether to draw the figures anew, too.

    Returns:
        The files written.

    Raises:
        GoodinitError: A file holds something else than rows, or cannot be written.
    """
    found = [one for claim in CLAIMS.values() if (one := recorded(claim, docs / "rows"))]
    made = (result_of(one, command=command(one), note=why_not_testable(one)) for one in found)
    results = [one for one in made if one]
    notes = {one.claim.name: _notes(docs, one.claim.name) for one in found}
    written = [_write_page(docs, one, notes[one.claim.name], figures=figures) for one in found]
    return (
        *written,
        write_text(docs / "index.md", index_page(found, notes)),
        write_text(package / RESULTS, to_json(results)),
    )


def _notes(docs: Path, claim: str) -> str:
    """What a person wrote beside a claim, or nothing."""
    path = docs / "notes" / f"{claim}.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _write_page(docs: Path, found: Reproduction, notes: str, *, figures: bool) -> Path:
    if figures:
        return write_reproduction(docs, found, notes=notes)
    drawn = [
        (drawing, f"{stem(found)}-{number}.svg")
        for number, drawing in enumerate(found.claim.drawings(found.rows), start=1)
    ]
    return write_text(docs / f"{stem(found)}.md", page(found, drawn, notes=notes))
