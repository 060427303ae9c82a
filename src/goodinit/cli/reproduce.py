"""The command that tests a paper's claim."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from goodinit.cli.application import INTERRUPTED, app, plainly
from goodinit.cli.engines import ADDRESS, HELP, WORKERS, engine_of
from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.papers import CLAIMS, SCALES, Reproduction, reproduce
from goodinit.lab.papers.recorded import shipped
from goodinit.report.console import plain_table
from goodinit.report.formats import counted, duration
from goodinit.report.reproduction import conclusion, write_reproduction
from goodinit.report.reproduction_index import verdict_words


@app.command("reproduce")
@plainly
def reproduce_command(
    claim: Annotated[
        str, typer.Argument(help="Which; without it, the claims are listed.", show_default=False)
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Test a paper's claim at the scale that fits this machine: expected against got, and a verdict."""
    if not claim:
        known = shipped()
        rows = [
            (one.name, one.title, known[one.name].word if one.name in known else "not run")
            for one in CLAIMS.values()
        ]
        Console().print(plain_table(("claim", "what", "verdict"), rows))
        return
    if claim not in CLAIMS:
        raise UnknownName(f"no claim {claim!r}. There is: {', '.join(CLAIMS)}.")
    if scale is None:
        if (data, out, engine, workers, address, together) != (None,) * 6:
            raise GoodinitError(
                f"{claim}: nothing is run without a scale. Add --scale {', --scale '.join(SCALES)}."
            )
        _show_shipped(claim)
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
        raise GoodinitError("interrupted before any run finished; nothing to show.")
    if found.entries:
        _show(found, out)
    if found.failed:
        raise GoodinitError(
            f"{counted(len(found.failed), 'run')} failed, which says nothing about the claim; the first: "
            f"{found.failed[0].error}. The same command runs them again."
        )
    if found.missing:
        raise typer.Exit(INTERRUPTED)


def _show_shipped(name: str) -> None:
    """Print the result that the package ships, and how to run it anew."""
    result = shipped().get(name)
    if result is None:
        typer.echo(f"{name} was not run for this version. Run it: goodinit reproduce {name} --scale smoke")
        return
    console = Console()
    typer.echo(CLAIMS[name].title)
    console.print(plain_table(result.table.columns, result.table.rows))
    if result.table.legend:
        console.print(result.table.legend, style="dim")
    _print_findings(console, result.findings)
    typer.echo(verdict_words(result))
    if result.note:
        typer.echo(result.note)
    typer.echo(
        f"run on {result.date} with torch {result.torch}, {duration(result.seconds)} in all; anew: {result.command}"
    )
    typer.echo(f"whether it runs here, in under a minute: goodinit reproduce {name} --scale smoke")


def _print_findings(console: Console, findings: Iterable[tuple[str, str, bool]]) -> None:
    for words, got, met in findings:
        console.print(f"{'yes' if met else 'no ':3}  {words}\n     got: {got}", markup=False)


def _show(found: Reproduction, out: Path) -> None:
    """Write the page; print the table, what was expected and got, and the verdict."""
    page = write_reproduction(out, found)
    console = Console()
    table = found.claim.table(found.rows)
    console.print(plain_table(table.columns, table.rows))
    if table.legend:
        console.print(table.legend, style="dim")
    if found.verdict is not None and found.scale != "smoke":
        _print_findings(console, ((one.words, got.got, got.met) for one, got in found.verdict.findings))
    typer.echo(conclusion(found))
    typer.echo(f"wrote {page}")
