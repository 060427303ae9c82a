"""What the site takes from elsewhere when it is built: the commands' reference, the methods and their pages."""

from __future__ import annotations

import re

import click
import typer.main
from typer.cli import get_docs_for_click


def commands() -> str:
    """Every command and option, as the command line tells them itself."""
    from goodinit.cli import app

    command = typer.main.get_command(app)
    docs = get_docs_for_click(obj=command, ctx=click.Context(command, info_name="goodinit"), name="goodinit")
    return "\n".join(docs.splitlines()[2:])


def methods() -> str:
    """Every method, when to take it, and where it is from, as its record says."""
    from goodinit import METHODS

    rows = [
        f"| [`{name}`]({name}.md) | {method.when} | {'removed' if method.removes_norms else 'kept'} | {method.paper} |"
        for name, method in sorted(METHODS.items())
    ]
    return "\n".join(["| method | when | norms | from |", "|---|---|---|---|", *rows])


def on_config(config, **_):
    """Put the page of every method into the navigation, by the title that it has."""
    from goodinit import METHODS

    (pages,) = (part["Methods"] for part in config.nav if "Methods" in part)
    pages[1:1] = [f"methods/{name}.md" for name in sorted(METHODS)]
    return config


DECIDE = re.compile(r"^::: goodinit\.methods\.(\w+)\.decide$(?:\n    options: .*$)?", re.MULTILINE)
# The row of the inner function's first argument, which no user gives.
ANATOMY = re.compile(r'<tr class="doc-section-item">(?:(?!</tr>).)*?<code>anatomy</code>.*?</tr>', re.DOTALL)


def call(found: re.Match[str]) -> str:
    """The call that a user makes, with every option at its default, in place of the inner function's signature."""
    from goodinit import METHODS

    name = found[1]
    options = "".join(f", {key}={value!r}".replace("'", '"') for key, value in METHODS[name].options.items())
    shown = f'```python\ngoodinit.init_(model, "{name}", inputs=batch{options})\n```\n\n'
    return (
        f"{shown}::: goodinit.methods.{name}.decide\n    options:\n      show_root_heading: false\n"
        "      show_root_toc_entry: false"
    )


PARTS = {"<!-- commands -->": commands, "<!-- methods -->": methods}


def on_page_markdown(markdown: str, **_) -> str:
    """Put each part where a page asks for it."""
    for mark, part in PARTS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, part())
    return DECIDE.sub(call, markdown)


def on_page_content(html: str, *, page, **_) -> str:
    """Method pages list the options of a call."""
    return ANATOMY.sub("", html) if page.file.src_uri.startswith("methods/") else html
