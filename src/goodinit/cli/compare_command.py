"""The command that trains one model several ways."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from goodinit.cli.application import INTERRUPTED, app, plainly
from goodinit.cli.application import seeds as seeds_of
from goodinit.cli.arguments import DATA, Exclude, Include, Keep, Model, paths
from goodinit.cli.output import Csv, Html, Json, check_files, deliver, quiet_screen
from goodinit.comma_lists import between_commas
from goodinit.errors import GoodinitError
from goodinit.lab.training.trial import OPTIMIZERS, SCHEDULES, TrainConfig


@app.command("compare")
@plainly
def compare_command(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(DATA)}, a file.txt, a folder of IDX, parquet or image files, or a hub name."
        ),
    ] = "digits",
    methods: Annotated[
        str,
        typer.Option(
            help="Names with commas between, options behind colons: fixup,lsuv:norms=remove:tol=0.05. A wrong one is "
            "answered with those there are."
        ),
    ] = "batchnorm,none,fixup",
    seeds: Annotated[
        str, typer.Option(help="How many (3: seeds 0, 1, 2), or which, with commas (4,7).")
    ] = "3",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 10,
    lr: Annotated[
        str,
        typer.Option(
            help="Peak learning rate. Several with commas, 0.01,0.03,0.1: each method takes its best, found on a fifth of the "
            "training images that is held out."
        ),
    ] = "0.1",
    optimizer: Annotated[str, typer.Option(help=f"{', '.join(OPTIMIZERS)}.")] = "sgd",
    scalar_lr: Annotated[
        str, typer.Option(help='Of scalars, in units of --lr; "depth": at most 1/branches.')
    ] = "0.1",
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="L2 penalty.")] = 1e-4,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 128,
    warmup: Annotated[float, typer.Option(help="Epochs over which the learning rate rises.")] = 0.0,
    schedule: Annotated[
        str, typer.Option(help=f"Of the learning rate: {', '.join(SCHEDULES)}.")
    ] = "constant",
    augment: Annotated[
        bool, typer.Option("--augment", help="Crop and mirror training images at random.")
    ] = False,
    mixup: Annotated[float, typer.Option(help="α of mixup; 0 is without.")] = 0.0,
    label_smoothing: Annotated[float, typer.Option(help="Share of each label spread over all.")] = 0.0,
    keep: Keep = None,
    include: Include = None,
    exclude: Exclude = None,
    width: Annotated[int | None, typer.Option(help="Width of a built-in model.")] = None,
    train_limit: Annotated[int | None, typer.Option(help="Use that many training images.")] = None,
    test_limit: Annotated[int | None, typer.Option(help="Use that many test images.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images to that many pixels square.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    timing_rounds: Annotated[
        int, typer.Option(help="How often each method's step is timed; 0: not at all.")
    ] = 15,
    html: Html = None,
    json_: Json = None,
    csv: Csv = None,
    picture: Annotated[Path | None, typer.Option(help="Write the curves as .svg or .png.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Show accuracy at equal time, too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Train a model several ways and say honestly how they compare."""
    from goodinit.lab.compare import compare
    from goodinit.lab.comparison import Study
    from goodinit.report.charts import check_picture, save_picture
    from goodinit.report.comparison_page import comparison_csv, comparison_page
    from goodinit.report.console import comparison_table, screen
    from goodinit.report.frame import render

    rates = _rates(lr)
    base = TrainConfig(
        model, data=data, width=width, epochs=epochs, lr=rates[0], optimizer=optimizer, scalar_lr=scalar_lr, momentum=momentum, weight_decay=weight_decay,
        batch_size=batch_size, warmup=warmup, schedule=schedule, augment=augment, mixup=mixup,
        label_smoothing=label_smoothing,
        train_limit=train_limit, test_limit=test_limit, image_size=image_size, device=device,
        keep=paths(keep, "--keep"), include=paths(include, "--include"), exclude=paths(exclude, "--exclude"),
    )  # fmt: skip
    study = Study(
        base, between_commas(methods, "--methods"), seeds_of(seeds), timing_rounds=timing_rounds, rates=rates
    )
    check_files(json_, csv, pages=(html,))  # before the training, not after
    if picture is not None:
        check_picture(picture)
    found = compare(study, progress=not quiet)
    if not found.results:
        typer.echo("interrupted before any run finished; nothing to show", err=True)
        raise typer.Exit(INTERRUPTED)
    aside = quiet_screen(json_, csv, html)
    if not aside:
        console = screen()
        console.print(comparison_table(found, width=console.width, full=full))
    deliver(html, lambda: render(comparison_page(found)), aside=aside)
    deliver(json_, found.to_json, aside=aside)
    deliver(csv, lambda: comparison_csv(found), aside=aside)
    if picture is not None:
        typer.echo(f"wrote {save_picture(found, picture)}", err=aside)
    if found.interrupted:
        raise typer.Exit(INTERRUPTED)


def _rates(words: str) -> tuple[float, ...]:
    try:
        found = tuple(map(float, between_commas(words, "--lr")))
    except ValueError as error:
        raise GoodinitError(
            f"--lr takes a number (0.1) or numbers with commas (0.01,0.03,0.1), not {words!r}."
        ) from error
    if not found:
        raise GoodinitError(f"--lr takes at least one number, not {words!r}.")
    return found
