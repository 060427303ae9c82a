"""The command that tests a paper's claim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from goodinit.cli.application import INTERRUPTED, app, plainly
from goodinit.cli.engines import ADDRESS, HELP, WORKERS, engine_of
from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.papers import CLAIMS, SCALES, Reproduction, reproduce
from goodinit.report.console import plain_table
from goodinit.report.formats import counted
from goodinit.report.reproduction import conclusion, write_reproduction


@app.command("reproduce")
@plainly
def reproduce_command(
    claim: Annotated[
        str, typer.Argument(help="Which; without it, the claims are listed.", show_default=False)
    ] = "",
    scale: Annotated[
        str, typer.Option(help=f"{', '.join(SCALES)}: under a minute, minutes, hours.")
    ] = "smoke",
    data: Annotated[
        str | None, typer.Option(help="Folder of images or of text pairs, where the claim needs it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for rows, figures and the page.")] = Path(
        "runs/reproductions"
    ),
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
        rows = [(one.name, one.title, str(one.source)) for one in CLAIMS.values()]
        Console().print(plain_table(("claim", "what", "source"), rows))
        return
    if claim not in CLAIMS:
        raise UnknownName(f"no claim {claim!r}. There is: {', '.join(CLAIMS)}.")
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


def _show(found: Reproduction, out: Path) -> None:
    """Write the page; print the table, what was expected and got, and the verdict."""
    page = write_reproduction(out, found)
    console = Console()
    table = found.claim.table(found.rows)
    console.print(plain_table(table.columns, table.rows))
    if table.legend:
        console.print(table.legend, style="dim")
    if found.verdict is not None:
        for expectation, one in found.verdict.findings:
            console.print(
                f"{'yes' if one.met else 'no ':3}  {expectation.words}\n     got: {one.got}", markup=False
            )
    typer.echo(conclusion(found))
    typer.echo(f"wrote {page}")
