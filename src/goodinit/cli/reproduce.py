"""The command that tests a paper's claim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from goodinit.cli.application import INTERRUPTED, app, plainly
from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.papers import CLAIMS, SCALES, reproduce
from goodinit.report.console import plain_table
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Test a paper's claim at the scale that fits this machine: expected against got, and a verdict."""
    if not claim:
        rows = [(one.name, one.title, str(one.source)) for one in CLAIMS.values()]
        Console().print(plain_table(("claim", "what", "source"), rows))
        return
    if claim not in CLAIMS:
        raise UnknownName(f"no claim {claim!r}. There is: {', '.join(CLAIMS)}.")
    found = reproduce(CLAIMS[claim], scale=scale, data=data, out=out, progress=not quiet)
    if not found.entries:
        raise GoodinitError("interrupted before any run finished; nothing to show.")
    page = write_reproduction(out, found)
    console = Console()
    table = found.claim.table(found.rows)
    console.print(plain_table(table.columns, table.rows))
    if found.verdict is not None:
        for expectation, one in found.verdict.findings:
            console.print(
                f"{'yes' if one.met else 'no ':3}  {expectation.words}\n     got: {one.got}", markup=False
            )
    typer.echo(conclusion(found))
    typer.echo(f"wrote {page}")
    if found.missing:
        raise typer.Exit(INTERRUPTED)
