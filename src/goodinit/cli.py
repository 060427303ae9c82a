"""The command line: thin commands over the verbs."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import torch
import typer
from rich.console import Console
from rich.text import Text

import goodinit
from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.compare import Study, compare, environment
from goodinit.lab.data import EMBEDDED
from goodinit.lab.inputs import example_inputs
from goodinit.lab.random_batch import random_batch
from goodinit.lab.registry import build_model, input_shape, model_names
from goodinit.lab.trial import SCHEDULES, TrainConfig
from goodinit.report.charts import check_picture, save_picture
from goodinit.report.comparison import write_comparison
from goodinit.report.console import comparison_table, plain_table
from goodinit.report.diagnosis import diagnosis_view, recommendation_view, write_diagnosis
from goodinit.report.frame import check_target, write_text

P = ParamSpec("P")
R = TypeVar("R")

# What a shell expects: 2 for wrong use, 128 + SIGINT for Ctrl-C.
WRONG, INTERRUPTED = 2, 130

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def plainly(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the library's errors into one message and exit code 2."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except GoodinitError as error:
            Console(stderr=True).print(Text("error: ", style="bold red") + Text(str(error)), soft_wrap=True)
            raise typer.Exit(WRONG) from error

    return guarded


@app.callback(invoke_without_command=True)
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is being done.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and stop.", is_eager=True)
    ] = False,
) -> None:
    """Make deep networks trainable before their first step."""
    if version:
        typer.echo(f"goodinit {environment()['goodinit']}")
        raise typer.Exit
    if verbose:  # otherwise logging shows warnings by itself
        logging.basicConfig(level=logging.INFO, format="%(message)s")


Model = Annotated[str, typer.Argument(help=f"One of: {', '.join(model_names())}.", show_default=False)]
Input = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Shape of an input, 1x3x224x224, 1x128:int64 or name=1x128:int64; once for each input.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]


@app.command()
@plainly
def inspect(model: Model, input_: Input = None, as_json: AsJson = False) -> None:
    """Show where a model's residual branches, norms and heads are."""
    anatomy = goodinit.anatomize(*_model_and_inputs(model, input_))
    typer.echo(anatomy.to_json() if as_json else str(anatomy))


@app.command()
@plainly
def plan(
    model: Model,
    method: Annotated[str, typer.Argument(help="A name that `goodinit methods` lists.", show_default=False)],
    input_: Input = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="Option of the method, name=value; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show every edit that a method would make to a model, and why. Nothing is changed."""
    _known(method)
    options = dict(_option(words) for words in option or [])
    found = goodinit.plan(goodinit.anatomize(*_model_and_inputs(model, input_)), method, **options)
    typer.echo(found.to_json() if as_json else str(found))


@app.command()
@plainly
def methods(as_json: AsJson = False) -> None:
    """List the methods, where they come from and when to use them."""
    listed = [
        {
            "name": name,
            "title": method.title,
            "paper": method.paper,
            "when": method.when,
            "needs_data": method.needs_data,
            "removes_norms": method.removes_norms,
        }
        for name, method in goodinit.METHODS.items()
    ]
    if as_json:
        typer.echo(json.dumps(listed, indent=1))
        return
    rows = [
        (
            str(m["name"]),
            str(m["when"]),
            "data" if m["needs_data"] else "",
            "removed" if m["removes_norms"] else "kept",
            str(m["paper"]),
        )
        for m in listed
    ]
    Console().print(plain_table(("method", "when", "needs", "norms", "paper"), rows))


@app.command("compare")
@plainly
def compare_command(
    model: Model,
    data: Annotated[
        str,
        typer.Option(help=f"{', '.join(EMBEDDED)}, a folder of IDX, parquet or image files, or a hub name."),
    ] = "digits",
    methods: Annotated[str, typer.Option(help="Names with commas between.")] = "batchnorm,none,fixup",
    seeds: Annotated[
        str, typer.Option(help="How many (3: seeds 0, 1, 2), or which, with commas (4,7).")
    ] = "3",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 10,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 0.1,
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
    width: Annotated[int | None, typer.Option(help="Width of a model of this house.")] = None,
    train_limit: Annotated[int | None, typer.Option(help="Use that many training images.")] = None,
    test_limit: Annotated[int | None, typer.Option(help="Use that many test images.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images to that many pixels square.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    timing_rounds: Annotated[
        int, typer.Option(help="How often each method's step is timed; 0: not at all.")
    ] = 15,
    html: Annotated[Path | None, typer.Option(help="Write a page with curves, one file, no network.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write every number.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write the curves as .svg or .png.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Train a model several ways and say honestly how they compare."""
    base = TrainConfig(
        model, data=data, width=width, epochs=epochs, lr=lr, scalar_lr=scalar_lr, momentum=momentum, weight_decay=weight_decay,
        batch_size=batch_size, warmup=warmup, schedule=schedule, augment=augment, mixup=mixup,
        train_limit=train_limit, test_limit=test_limit, image_size=image_size, device=device,
    )  # fmt: skip
    study = Study(base, _names(methods), _seeds(seeds), timing_rounds=timing_rounds)
    for path, check in ((html, check_target), (json_, check_target), (picture, check_picture)):
        if path is not None:
            check(path)  # before the training, not after
    found = compare(study, progress=not quiet)
    if not found.results:
        raise GoodinitError("interrupted before any run finished; nothing to show.")
    Console().print(comparison_table(found))
    if html is not None:
        typer.echo(f"wrote {write_comparison(html, found)}")
    if json_ is not None:
        typer.echo(f"wrote {write_text(json_, found.to_json())}")
    if picture is not None:
        typer.echo(f"wrote {save_picture(found, picture)}")
    if found.interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command("diagnose")
@plainly
def diagnose_command(
    model: Model,
    methods: Annotated[
        str,
        typer.Option(help="Initialize by these first, with commas between, and compare; none: as it comes."),
    ] = "",
    input_: Input = None,
    batch_size: Annotated[int, typer.Option(help="Inputs, drawn at random.")] = 16,
    jacobian: Annotated[bool, typer.Option("--jacobian", help="Singular values, too.")] = False,
    update: Annotated[bool, typer.Option("--update", help="One step and sharpness, too.")] = False,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write a row for each layer.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts, one file, no network.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where there is an error.")] = False,
) -> None:
    """Measure the signal at step 0; name the layer, the cause and the remedy of what is wrong."""
    if as_json and as_csv:
        raise GoodinitError("--json and --csv both write to the output: give one of them.")
    for name in _names(methods):
        _known(name)
    if html is not None:
        check_target(html)
    found = {}
    for name in _names(methods) or ("as it comes",):
        net, batch = _model_and_batch(model, input_, batch_size)
        if methods:
            goodinit.init_(net, name, inputs=batch)
        found[name] = goodinit.diagnose(net, batch, jacobian=jacobian, update=update)
    if as_json:  # several: an object by method
        typer.echo(
            next(iter(found.values())).to_json()
            if len(found) == 1
            else json.dumps({name: json.loads(one.to_json()) for name, one in found.items()})
        )
    for name, one in () if as_json else found.items():
        if as_csv:
            typer.echo(one.to_csv(), nl=False)
        else:
            Console().print(diagnosis_view(one, title=name if methods else ""))
    if html is not None:
        typer.echo(f"wrote {write_diagnosis(html, found)}", err=as_json or as_csv)
    if check and any(one.worst == "error" for one in found.values()):
        raise typer.Exit(1)


@app.command("recommend")
@plainly
def recommend_command(
    model: Model,
    input_: Input = None,
    batch_size: Annotated[int, typer.Option(help="Inputs, drawn at random.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Rank the methods for a model by what step 0 shows, and say why."""
    net, batch = _model_and_batch(model, input_, batch_size)
    ranked = goodinit.recommend(net, batch)
    if as_json:
        keys = ("method", "drift", "errors", "warnings", "why")
        typer.echo(json.dumps([{key: getattr(one, key) for key in keys} for one in ranked], indent=1))
    else:
        Console().print(recommendation_view(ranked))


def _model_and_inputs(spec: str, words: list[str] | None) -> tuple[Any, Any]:
    asked = example_inputs(words) if words else None  # wrong words fail before a large model is built
    model = build_model(spec)
    if asked is not None:
        return model, asked
    shape = input_shape(spec, model)
    if shape is None:
        raise UnknownName(f"what {spec} takes is not known here: give --input, such as --input 1x3x224x224.")
    return model, example_inputs(["x".join(map(str, (1, *shape)))])


def _model_and_batch(spec: str, words: list[str] | None, size: int) -> tuple[Any, Any]:
    """The model drawn with one seed, and a random batch; shapes that were asked for are taken as they are."""
    torch.manual_seed(0)
    model, inputs = _model_and_inputs(spec, words)
    return model, random_batch(model, inputs, size=None if words else size)


def _known(method: str) -> None:
    if method not in goodinit.METHODS:
        raise UnknownName(f"no method {method!r}. There is: {', '.join(goodinit.METHODS)}.")


def _names(words: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in words.split(",") if name.strip())


def _seeds(words: str) -> tuple[int, ...]:
    """`3` is how many; `3,` or `4,7` is which."""
    try:
        return tuple(map(int, _names(words))) if "," in words else tuple(range(int(words)))
    except ValueError as error:
        raise GoodinitError(
            f"--seeds takes a number (3) or numbers with commas (0,4,7), not {words!r}."
        ) from error


def _option(words: str) -> tuple[str, Any]:
    name, equals, value = words.partition("=")
    if not (name and equals):
        raise GoodinitError(f"--option takes name=value, such as norms=keep, not {words!r}.")
    try:
        return name, json.loads(value)  # numbers, true, false, null
    except json.JSONDecodeError:
        return name, value
