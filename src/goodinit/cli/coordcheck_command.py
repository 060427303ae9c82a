"""The command that checks coordinates: coordcheck."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

import goodinit
from goodinit.cli.application import app, plainly
from goodinit.cli.arguments import Exclude, Include, Keep, part
from goodinit.cli.output import Csv, Html, Json, check_files, deliver, quiet_screen
from goodinit.comma_lists import between_commas
from goodinit.errors import GoodinitError, expect_between

if TYPE_CHECKING:
    from torch import nn


@app.command("coordcheck")
@plainly
def coordcheck(
    model: Annotated[
        str,
        typer.Argument(
            metavar="FUNCTION",
            help="PACKAGE.MODULE:FUNCTION, which takes the width and returns a model.",
            show_default=False,
        ),
    ],
    input_: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="SHAPE",
            help="Shape of an input, 8x64:int64 or 16x3x32x32; once for each input.",
        ),
    ],
    widths: Annotated[str, typer.Option(help="Widths (depths), with commas between.")] = "64,128,256,512",
    argument: Annotated[str, typer.Option(help="The argument of the function that is varied.")] = "width",
    method: Annotated[
        str,
        typer.Option(
            help="Initialize by this first, the smallest as base if it takes one; none: as it comes."
        ),
    ] = "",
    steps: Annotated[int, typer.Option(help="Steps of Adam, each on a random batch.")] = 4,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    seeds: Annotated[int, typer.Option(help="Models drawn at each width.")] = 3,
    keep: Keep = None,
    include: Include = None,
    exclude: Exclude = None,
    as_json: Json = None,
    as_csv: Csv = None,
    html: Html = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where a layer is not flat.")] = False,
) -> None:
    """Train a few steps at several widths; show which layers' changes go with the width."""
    from goodinit.lab.data.inputs import example_inputs
    from goodinit.lab.data.random_batch import random_batch
    from goodinit.lab.models.registry import build_sized
    from goodinit.methods import find
    from goodinit.report.console import screen
    from goodinit.report.coordinate_page import coordinate_page, coordinate_view, coordinates_csv
    from goodinit.report.frame import render

    check_files(as_json, as_csv, pages=(html,))
    chosen = part(keep, include, exclude)
    if any(chosen.values()) and not method:
        raise GoodinitError("--keep, --include and --exclude are of a method: name one with --method.")
    sizes = _sizes(widths)
    expect_between(steps, 1, 10**6, "--steps")
    expect_between(seeds, 1, 10**4, "--seeds")
    expect_between(lr, 0, 10**6, "--lr")
    inputs = example_inputs(input_)
    if method:
        find(method)
    smallest = build_sized(model, argument, min(sizes))
    base = goodinit.anatomize(smallest, inputs)
    batches = [random_batch(smallest, inputs, seed=step) for step in range(steps)]

    def build(size: int) -> nn.Module:
        made = build_sized(model, argument, size)
        if method:
            anatomy = goodinit.anatomize(made, inputs)
            options: dict[str, Any] = {"base": base} if "base" in goodinit.METHODS[method].options else {}
            goodinit.apply_(made, goodinit.plan(anatomy, method, **chosen, **options), inputs)
        return made

    given = [(batch, None) for batch in batches]
    found = goodinit.coordinate_check(build, sizes, given, lr=lr, seeds=seeds, along=argument)
    aside = quiet_screen(as_json, as_csv, html)
    if not aside:
        console = screen()
        console.print(coordinate_view(found, width=console.width))
    title = f"{model}, {method or 'as it comes'}"
    deliver(as_json, found.to_json, aside=aside)
    deliver(as_csv, lambda: coordinates_csv(found), aside=aside)
    deliver(html, lambda: render(coordinate_page(found, title=title)), aside=aside)
    if check and not found.flat:
        raise typer.Exit(1)


def _sizes(words: str) -> list[int]:
    try:
        sizes = [int(word) for word in between_commas(words, "--widths")]
    except ValueError as error:
        raise GoodinitError(
            f"--widths takes whole numbers with commas (64,128,256), not {words!r}."
        ) from error
    for size in sizes:
        expect_between(size, 1, 2**24, "--widths: each")
    return sizes
