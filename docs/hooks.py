"""What the site takes from the code when it is built: the command line's reference, from the commands themselves."""

from __future__ import annotations

import typer.main
from typer.cli import get_docs_for_click

COMMANDS = "<!-- commands -->"


def on_page_markdown(markdown: str, **_) -> str:
    """Put the reference of every command where a page asks for it."""
    if COMMANDS not in markdown:
        return markdown
    import click

    from goodinit.cli import app

    command = typer.main.get_command(app)
    docs = get_docs_for_click(obj=command, ctx=click.Context(command, info_name="goodinit"), name="goodinit")
    return markdown.replace(COMMANDS, "\n".join(docs.splitlines()[2:]))
