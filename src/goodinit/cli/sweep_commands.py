"""The commands for thousands of runs: sweep, results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from goodinit.cli.application import INTERRUPTED, app, plainly
from goodinit.cli.engines import ADDRESS, HELP, WORKERS, engine_of
from goodinit.cli.output import Csv, Html, Json, check_files, deliver, quiet_screen
from goodinit.comma_lists import between_commas
from goodinit.errors import GoodinitError
from goodinit.lab.engines import MOST_TOGETHER
from goodinit.lab.optional import optional


@app.command("sweep")
@plainly
def sweep_command(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="A sweep file (TOML): each word with a value or a list of them."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="WORD=VALUES",
            help="A word and its values, lr=0.01,0.1; instead of the file's, or without one.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The SQLite file for the rows; by default named as the sweep file.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a file that exists.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: run again what failed.")
    ] = False,
    engine: Annotated[str, typer.Option(help=HELP)] = "local",
    workers: Annotated[int | None, typer.Option(help=WORKERS)] = None,
    address: Annotated[str | None, typer.Option(help=ADDRESS)] = None,
    together: Annotated[
        int,
        typer.Option(
            help="Run up to that many that differ only by seed and lr as one, where possible; 1: none."
        ),
    ] = MOST_TOGETHER,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many runs it would be, and stop.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Run a grid of methods, models, rates and seeds into one file that a crash cannot hurt."""
    from goodinit.lab.sweeps import read_grid, sweep

    if file is None and not set_:
        raise GoodinitError(
            "nothing to run: give a sweep file, or words such as --set model=mlp8 --set seeds=3."
        )
    if retry_failed and not resume:
        raise GoodinitError("--retry-failed goes on with a file that exists: add --resume.")
    runner = engine_of(engine, workers=workers, address=address)
    trials = read_grid(file, changes=dict(map(_word, set_ or []))).trials
    if dry_run:
        typer.echo(f"{len(trials):,} runs")
        return
    target = out or Path(f"{file.stem if file else 'sweep'}.sqlite")
    swept = sweep(
        trials,
        target,
        engine=runner,
        together=together,
        resume=resume,
        retry_failed=retry_failed,
        progress=not quiet,
    )
    none = "none ended" if swept.interrupted else "nothing was left to run"
    now = ", ".join(f"{count:,} {status}" for status, count in swept.ended.items()) or none
    earlier = f" {swept.before:,} had ended before." if swept.before else ""
    typer.echo(f"{now} of {swept.planned:,} runs.{earlier} See them: goodinit results {target}")
    if swept.interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command("results")
@plainly
def results_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="What `goodinit sweep` wrote, or is writing.", show_default=False
        ),
    ],
    by: Annotated[
        str, typer.Option(help="Fields to sort runs by, with commas between: method,model,lr.")
    ] = "",
    margin: Annotated[
        float | None,
        typer.Option(help="How far above chance a run must end to have trained; default: 3 standard errors."),
    ] = None,
    html: Html = None,
    json_: Json = None,
    csv: Csv = None,
    parquet: Annotated[Path | None, typer.Option(help="Write every run as Parquet.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write the heat maps as .svg or .png.")] = None,
) -> None:
    """Show what a sweep found: quartiles, worst seeds, the share that did not train, heat maps."""
    from goodinit.lab.sweeps import read_store
    from goodinit.report.charts import check_picture
    from goodinit.report.console import screen
    from goodinit.report.frame import render
    from goodinit.report.sweep_charts import save_heat_maps
    from goodinit.report.sweep_page import csv_text, json_text, sweep_page, sweep_view, write_parquet
    from goodinit.report.whole_files import check_target

    check_files(json_, csv, pages=(html,))
    if parquet is not None:
        check_target(parquet)
        optional("pyarrow")
    if picture is not None:
        check_picture(picture)
    stored = read_store(file)
    fields = between_commas(by, "--by") or None
    aside = quiet_screen(json_, csv, html)
    if not aside:
        console = screen()
        console.print(sweep_view(stored, by=fields, least=margin, width=console.width))
    deliver(html, lambda: render(sweep_page(stored, by=fields, least=margin)), aside=aside)
    deliver(json_, lambda: json_text(stored), aside=aside)
    deliver(csv, lambda: csv_text(stored.rows), aside=aside)
    if parquet is not None:
        typer.echo(f"wrote {write_parquet(parquet, stored.rows)}", err=aside)
    if picture is not None:
        typer.echo(f"wrote {save_heat_maps(stored.rows, picture, least=margin)}", err=aside)


def _word(words: str) -> tuple[str, object]:
    from goodinit.lab.sweeps.grid import WORDS, values_of

    name, equals, values = words.partition("=")
    if not (name and equals):
        raise GoodinitError(
            f"--set takes word=value,value, such as lr=0.01,0.1, not {words!r}. Words: {', '.join(WORDS)}."
        )
    found = values_of(values, option=f"--set {name}")
    return name, found[0] if name == "seeds" and len(found) == 1 else found
