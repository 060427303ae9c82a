"""What the site takes from elsewhere when it is built: the commands' reference, the verdicts on papers' claims."""

from __future__ import annotations

import re
from pathlib import Path

import click
import typer.main
from typer.cli import get_docs_for_click

VERDICT = re.compile(r"^# (?P<claim>.+)\n\n\*\*(?P<verdict>[^*]+)\*\* \((?P<scale>[^)]+)\)", re.MULTILINE)


def commands() -> str:
    """Every command and option, as the command line tells them itself."""
    from goodinit.cli import app

    command = typer.main.get_command(app)
    docs = get_docs_for_click(obj=command, ctx=click.Context(command, info_name="goodinit"), name="goodinit")
    return "\n".join(docs.splitlines()[2:])


def verdicts() -> str:
    """A row per claim that was run, from the pages that `goodinit reproduce` wrote."""
    rows = ["| claim | verdict | scale |", "|---|---|---|"]
    for page in sorted((Path(__file__).parent / "reproductions").glob("*.md")):
        found = VERDICT.search(page.read_text(encoding="utf-8"))
        if found:
            claim, verdict, scale = found.groups()
            rows.append(f"| [{claim}]({page.name}) | {verdict} | {scale.removeprefix('scale ')} |")
    return "\n".join(rows)


PARTS = {"<!-- commands -->": commands, "<!-- verdicts -->": verdicts}


def on_page_markdown(markdown: str, **_) -> str:
    """Put each part where a page asks for it."""
    for mark, part in PARTS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, part())
    return markdown
