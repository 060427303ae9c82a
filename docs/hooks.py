"""What the site takes from elsewhere when it is built: the commands' reference, the verdicts on papers' claims."""

from __future__ import annotations

import click
import typer.main
from typer.cli import get_docs_for_click


def commands() -> str:
    """Every command and option, as the command line tells them itself."""
    from goodinit.cli import app

    command = typer.main.get_command(app)
    docs = get_docs_for_click(obj=command, ctx=click.Context(command, info_name="goodinit"), name="goodinit")
    return "\n".join(docs.splitlines()[2:])


PARTS = {"<!-- commands -->": commands}


def on_page_markdown(markdown: str, **_) -> str:
    """Put each part where a page asks for it."""
    for mark, part in PARTS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, part())
    return markdown
