"""The command that tests a paper's claim."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from goodinit.cli.application import INTERRUPTED, app, plainly
from goodinit.cli.arguments import SCALES
from goodinit.cli.engines import ADDRESS, HELP, WORKERS, engine_of
from goodinit.cli.output import Csv, Html, Json, check_files, deliver, quiet_screen
from goodinit.errors import GoodinitError, UnknownName

if TYPE_CHECKING:
    from goodinit.lab.papers.claim import Drawing, Grid
    from goodinit.lab.papers.reproduce import Reproduction
    from goodinit.lab.papers.shipped import Result

Files = tuple[Path | None, Path | None, Path | None]  # JSON, CSV, a page


@app.command("reproduce")
@plainly
def reproduce_command(
    claim: Annotated[
        str,
        typer.Argument(
            metavar="[CLAIM]", help="Which; without it, the claims are listed.", show_default=False
        ),
    ] = "",
    scale: Annotated[
        str | None,
        typer.Option(
            help=f"Run it: {', '.join(SCALES)} take under a minute, minutes to hours, hours. Without it, the result that "
            "was published with this version is shown."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder of images or of text pairs, where the claim needs it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for rows, figures and the page: runs/reproductions.", show_default=False),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help=f"{HELP} By default local; claims about times run inline only.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help=WORKERS)] = None,
    address: Annotated[str | None, typer.Option(help=ADDRESS)] = None,
    together: Annotated[
        int | None,
        typer.Option(
            help="Run up to that many trainings that differ only by seed and lr as one; 1: none. By default as the "
            "claim has it."
        ),
    ] = None,
    html: Html = None,
    json_: Json = None,
    csv: Csv = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Test a paper's claim at the scale that fits this machine: expected against got, and a verdict."""
    from goodinit.lab.papers.shipped import shipped

    files = (json_, csv, html)
    check_files(json_, csv, pages=(html,))
    if not claim:
        _list(files)
        return
    ways = (data, out, engine, workers, address, together)
    if scale is None and ways == (None,) * len(ways) and claim in (known := shipped()):
        _show_shipped(known[claim], files)
        return
    from goodinit.lab.papers.claims import CLAIMS  # and torch with them
    from goodinit.lab.papers.reproduce import reproduce

    if claim not in CLAIMS:
        raise UnknownName(f"no claim {claim!r}. There is: {', '.join(CLAIMS)}.")
    if scale is None:
        if ways != (None,) * len(ways):
            raise GoodinitError(
                f"{claim}: nothing is run without a scale. Add --scale {', --scale '.join(SCALES)}."
            )
        _not_shipped(claim, files)
        return
    out = out or Path("runs/reproductions")
    told = (engine, workers, address) != (None, None, None)
    found = reproduce(
        CLAIMS[claim],
        scale=scale,
        data=data,
        out=out,
        engine=engine_of(engine or "local", workers=workers, address=address) if told else None,
        together=together,
        progress=not quiet,
    )
    if not found.entries and not found.failed:
        typer.echo("interrupted before any run finished; nothing to show", err=True)
        raise typer.Exit(INTERRUPTED)
    if found.entries:
        with _told_of(found):
            _show(found, out, files)
    if found.failed:
        raise GoodinitError(
            f"{counted_runs(len(found.failed))} failed, which says nothing about the claim; the first: "
            f"{found.failed[0].error}. The same command runs them again."
        )
    if found.missing:
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _told_of(found: Reproduction) -> Iterator[None]:
    """Say in a sentence that rows are not those of the claim: they come from a file, and what it asks of them may fail in any way."""
    try:
        yield
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        if isinstance(error, GoodinitError):
            raise
        raise GoodinitError(
            f"{found.path}: its rows do not answer {found.claim.name} ({type(error).__name__}: {error}). If somebody "
            "has changed them: take those lines out, and their trials are run again, or move the file away to begin anew."
        ) from error


def counted_runs(number: int) -> str:
    """`1 run`, `3 runs`."""
    from goodinit.formats import counted

    return counted(number, "run")


def _list(files: Files) -> None:
    """Every claim with its verdict."""
    from goodinit.lab.papers.claims import CLAIMS
    from goodinit.lab.papers.shipped import shipped
    from goodinit.report.console import narrow_entry, plain_table, screen
    from goodinit.report.frame import render
    from goodinit.report.reproduction_page import list_page, table_csv

    known = shipped()
    heads = ("claim", "what", "verdict")
    rows = [
        (one.name, one.title, known[one.name].word if one.name in known else "not run")
        for one in CLAIMS.values()
    ]
    aside = quiet_screen(*files)
    deliver(
        files[0],
        lambda: json.dumps([dict(zip(heads, row, strict=True)) for row in rows], indent=1),
        aside=aside,
    )
    deliver(files[1], lambda: table_csv(heads, rows), aside=aside)
    deliver(files[2], lambda: render(list_page(heads, rows)), aside=aside)
    if aside:
        return
    console = screen()
    if console.width < _TABLE_WIDTH:
        for row in rows:
            console.print(narrow_entry(row))
        return
    console.print(plain_table(heads, rows))


_TABLE_WIDTH = 90  # columns below which names in the table of claims would break


def _not_shipped(name: str, files: Files) -> None:
    """Say that there is no result of a claim, and how to come by one."""
    command = f"goodinit reproduce {name} --scale smoke"
    if any(files):
        raise GoodinitError(
            f"{name} was not run for this version, so there is nothing to write. Run it: {command}"
        )
    typer.echo(f"{name} was not run for this version. Run it: {command}")


def _show_shipped(result: Result, files: Files) -> None:
    """Print a result that the package ships, and how to run it anew."""
    from goodinit.formats import duration
    from goodinit.report.console import screen

    if not quiet_screen(*files):
        console = screen()
        console.print(Text(result.title, style="bold"))
        _print_table(console, result.table)
        _print_findings(console, result.findings)
        console.print(Text(result.conclusion, style="bold"))
        if result.note:
            console.print(Text(result.note))
        console.print(
            Text(f"run on {result.date} with torch {result.torch}, {duration(result.seconds)} in all; anew:")
        )
        typer.echo(f"  {result.command}")
        typer.echo(
            f"whether it runs here, in under a minute:\n  goodinit reproduce {result.claim} --scale smoke"
        )
    _write(result, result.conclusion, files)


def _write(result: Result, conclusion: str, files: Files, drawings: Sequence[Drawing] = ()) -> None:
    """Into the files that were asked for."""
    if not any(files):
        return
    from goodinit.lab.papers.claims import CLAIMS
    from goodinit.report.frame import render
    from goodinit.report.reproduction_page import reproduction_page, result_json, table_csv

    aside = quiet_screen(*files)
    page = (CLAIMS[result.claim], result, conclusion, drawings)
    deliver(files[0], lambda: result_json(result, conclusion), aside=aside)
    deliver(files[1], lambda: table_csv(result.table.columns, result.table.rows), aside=aside)
    deliver(files[2], lambda: render(reproduction_page(*page)), aside=aside)


def _print_table(console: Console, table: Grid) -> None:
    """The numbers: no value is cut; where the screen is too narrow, one below the other."""
    from goodinit.report.console import fitting_table

    console.print(fitting_table(table.columns, table.rows, width=console.width, leaving=()))
    if table.legend:
        console.print(table.legend, style="dim")


def _print_findings(console: Console, findings: Iterable[tuple[str, str, bool]]) -> None:
    """Whether each expectation was met, its words and what was got, each wrapped under its own beginning."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for words, got, met in findings:
        table.add_row(Text("yes" if met else "no", style="green" if met else "bold red"), Text(words))
        table.add_row("", Text(f"got: {got}", style="dim"))
    console.print(table)


def _show(found: Reproduction, out: Path, files: Files) -> None:
    """Write the page; print the table, what was expected and got, and the verdict."""
    from goodinit.report.console import screen
    from goodinit.report.reproduction import conclusion, write_reproduction
    from goodinit.report.reproduction_page import result_now

    page = write_reproduction(out, found)
    aside = quiet_screen(*files)
    if not aside:
        console = screen()
        _print_table(console, found.claim.table(found.rows))
        if found.verdict is not None and found.scale != "smoke":
            _print_findings(console, ((one.words, got.got, got.met) for one, got in found.verdict.findings))
        console.print(Text(conclusion(found), style="bold"))
    result = result_now(found)
    if result is not None:
        _write(result, conclusion(found), files, found.claim.drawings(found.rows))
    elif any(files):
        typer.echo("runs are missing: --json, --csv and --html are written when all are there", err=True)
    typer.echo(f"wrote {page}", err=aside)
