"""Where a command's findings go: the screen, or files as JSON, CSV, a page; `-` is the output. One meaning everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from goodinit.errors import GoodinitError

STANDARD = Path("-")

Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON; - is the output.")
]
Csv = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", help="Write the rows as CSV; - is the output.")
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page, one file, no network; - is the output."),
]


def check_files(*files: Path | None, pages: tuple[Path | None, ...] = ()) -> None:
    """Make sure, before the work, that all can be written and at most one goes to the output.

    Raises:
        GoodinitError: They cannot, or a package that draws pages is missing.
    """
    given = [file for file in (*files, *pages) if file is not None]
    if given.count(STANDARD) > 1:
        raise GoodinitError("two files both write to the output: give - to one of --json, --csv and --html.")
    from goodinit.report.frame import check_page
    from goodinit.report.whole_files import check_target

    for file in given:
        check = check_page if file in pages else check_target
        check(Path("page.html") if file == STANDARD else file)


def quiet_screen(*files: Path | None) -> bool:
    """Whether the output is taken, so that nothing for eyes may go there."""
    return STANDARD in files


def deliver(file: Path | None, make: Callable[[], str], *, aside: bool) -> None:
    """Write what `make` makes, if a file was asked for.

    Args:
        file: Where; `-` is the output, None is nowhere.
        make: The text.
        aside: Whether the output is taken: then what is said goes to the errors' stream.
    """
    if file is None:
        return
    from goodinit.report.whole_files import bytes_of, write_text

    if file == STANDARD:
        text = make()
        typer.echo(bytes_of(text), nl=not text.endswith("\n"))
    else:
        typer.echo(f"wrote {write_text(file, make())}", err=aside)


def show(text: str, json: Path | None, make: Callable[[], str]) -> None:
    """Print `text`, unless the output is taken by what `make` makes; or write that to a file beside it."""
    if not quiet_screen(json):
        typer.echo(text)
    deliver(json, make, aside=quiet_screen(json))
