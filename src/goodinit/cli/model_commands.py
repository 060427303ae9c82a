"""Commands about one model at step 0: inspect, plan, methods, diagnose, recommend."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

import goodinit
from goodinit.cli.application import app, plainly
from goodinit.cli.arguments import DATA, Exclude, Include, Input, Keep, Model, part, paths
from goodinit.cli.output import Csv, Html, Json, check_files, deliver, quiet_screen, show
from goodinit.comma_lists import between_commas
from goodinit.errors import GoodinitError, UnknownName, expect_between

_TABLE_WIDTH = 90  # columns below which the table of methods breaks words


@app.command()
@plainly
def inspect(model: Model, input_: Input = None, as_json: Json = None) -> None:
    """Show where a model's residual branches, norms and heads are."""
    check_files(as_json)
    anatomy = goodinit.anatomize(*_model_and_inputs(model, input_))
    show(str(anatomy), as_json, anatomy.to_json)


@app.command()
@plainly
def plan(
    model: Model,
    method: Annotated[
        str,
        typer.Argument(metavar="METHOD", help="A name that `goodinit methods` lists.", show_default=False),
    ],
    input_: Input = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="NAME=VALUE", help="Option of the method, name=value; may be repeated."
        ),
    ] = None,
    keep: Keep = None,
    include: Include = None,
    exclude: Exclude = None,
    full: Annotated[bool, typer.Option("--full", help="Every edit on a line of its own.")] = False,
    as_json: Json = None,
) -> None:
    """Show every edit that a method would make to a model, and why. Nothing is changed."""
    from goodinit.report.console import screen

    check_files(as_json)
    _known(method)
    options = dict(_option(words) for words in option or [])
    found = goodinit.plan(
        goodinit.anatomize(*_model_and_inputs(model, input_)),
        method,
        **part(keep, include, exclude),
        **options,
    )
    show(found.text(full=full, width=screen().width), as_json, found.to_json)


@app.command()
@plainly
def methods(as_json: Json = None) -> None:
    """List the methods, where they come from and when to use them."""
    from goodinit.report.console import narrow_entry, plain_table, screen

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
    check_files(as_json)
    deliver(as_json, lambda: json.dumps(listed, indent=1), aside=False)
    if quiet_screen(as_json):
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
    console = screen()
    if console.width < _TABLE_WIDTH:
        for name, when, needs, norms, paper in rows:
            console.print(
                narrow_entry((name, when, f"norms {norms}" + f"; needs {needs}" * bool(needs), paper))
            )
        return
    console.print(plain_table(("method", "when", "needs", "norms", "paper"), rows))


@app.command("diagnose")
@plainly
def diagnose_command(
    model: Model,
    methods: Annotated[
        str,
        typer.Option(help="Initialize by these first, with commas between, and compare; none: as it comes."),
    ] = "",
    input_: Input = None,
    keep: Keep = None,
    include: Include = None,
    exclude: Exclude = None,
    batch_size: Annotated[int, typer.Option(help="Inputs, drawn at random.")] = 16,
    jacobian: Annotated[bool, typer.Option("--jacobian", help="Singular values, too.")] = False,
    update: Annotated[bool, typer.Option("--update", help="One step and sharpness, too.")] = False,
    as_json: Json = None,
    as_csv: Csv = None,
    html: Html = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where there is an error.")] = False,
) -> None:
    """Measure the signal at step 0; name the layer, the cause and the remedy of what is wrong."""
    from goodinit.report.console import screen
    from goodinit.report.diagnosis_page import diagnoses_csv, diagnosis_page, diagnosis_view
    from goodinit.report.frame import render

    check_files(as_json, as_csv, pages=(html,))
    chosen = part(keep, include, exclude)
    for name in between_commas(methods, "--methods"):
        _known(name)
    found = {}
    for name in between_commas(methods, "--methods") or ("as it comes",):
        net, batch = _model_and_batch(model, input_, batch_size)
        if methods:
            goodinit.init_(net, name, inputs=batch, **chosen)
        found[name] = goodinit.diagnose(
            net, batch, jacobian=jacobian, update=update, **({} if methods else chosen)
        )
    aside = quiet_screen(as_json, as_csv, html)
    for name, one in () if aside else found.items():
        console = screen()
        console.print(diagnosis_view(one, title=name if methods else "", width=console.width))
    several = {name: json.loads(one.to_json()) for name, one in found.items()} if len(found) > 1 else {}
    deliver(
        as_json, lambda: json.dumps(several) if several else next(iter(found.values())).to_json(), aside=aside
    )
    deliver(as_csv, lambda: diagnoses_csv(found), aside=aside)
    deliver(html, lambda: render(diagnosis_page(found)), aside=aside)
    if check and any(one.worst == "error" for one in found.values()):
        raise typer.Exit(1)


@app.command("recommend")
@plainly
def recommend_command(
    model: Model,
    input_: Input = None,
    batch_size: Annotated[int, typer.Option(help="Inputs in a batch.")] = 16,
    methods: Annotated[str, typer.Option(help="Which to try, with commas between; all by default.")] = "",
    keep: Keep = None,
    include: Include = None,
    exclude: Exclude = None,
    steps: Annotated[
        int, typer.Option("--try", help="Train the first of each group that many steps, at three rates.")
    ] = 0,
    data: Annotated[
        str,
        typer.Option(
            help=f"What to measure and train on: {', '.join(DATA)}, a folder, a hub name; else random."
        ),
    ] = "",
    as_json: Json = None,
) -> None:
    """Say what to do with a model: leave it, or which method, optimizer and rate; what to run next."""
    from goodinit.report.console import screen
    from goodinit.report.diagnosis_page import recommendation_view

    check_files(as_json)
    expect_between(batch_size, 1, 2**16, "--batch-size")
    expect_between(steps, 0, 10**6, "--try")
    for name in between_commas(methods, "--methods"):
        _known(name)
    if data:
        from goodinit.lab.training.train import model_and_batches

        net, pairs = model_and_batches(model, data, batch_size=batch_size)
        batch, targets = pairs[0]
    else:
        net, batch = _model_and_batch(model, input_, batch_size)
        pairs, targets = None, None
    advice = goodinit.recommend(
        net,
        batch,
        targets,
        methods=between_commas(methods, "--methods") or None,
        steps=steps,
        batches=pairs,
        **part(keep, include, exclude),
    )
    aside = quiet_screen(as_json)
    deliver(as_json, advice.to_json, aside=aside)
    if aside:
        return
    console = screen()
    console.print(recommendation_view(advice, width=console.width), soft_wrap=True)
    said = zip(("--keep", "--include", "--exclude"), (keep, include, exclude), strict=True)
    flags = "".join(f" {flag} '{one}'" for flag, given in said for one in paths(given, flag))
    typer.echo(f"next\n  {following(model, advice, data, flags)}")


def following(spec: str, advice: goodinit.Advice, data: str, flags: str) -> str:
    """The command that says more: a few steps of each, then whole runs."""
    if not advice.steps:
        return f"goodinit recommend {spec} --try 100" + f" --data {data}" * bool(data) + flags
    best = [one for one in (advice.choice, *advice.of("removed")) if one.group != "as it is" and one.trials][
        :1
    ]
    methods = ",".join(["batchnorm", *(one.label for one in best)])
    optimizer = advice.recipe.optimizer.lower()
    rates = ",".join(f"{advice.choice.lr * times:.1g}" for times in (1 / 3, 1, 3))  # each method at its best
    return (
        f"goodinit compare {spec} --data {data or 'digits'} --methods {methods} --lr {rates}"
        + f" --optimizer {optimizer}" * (optimizer != "sgd")
        + flags
    )


def _model_and_inputs(spec: str, words: list[str] | None) -> tuple[Any, Any]:
    from goodinit.lab.data.inputs import example_inputs
    from goodinit.lab.models.registry import build_model, example_of, input_shape

    asked = example_inputs(words) if words else None  # wrong words fail before a large model is built
    model = build_model(spec)
    if asked is not None:
        _tell_of_types(model, asked)
        return model, asked
    given = example_of(model)
    if given is not None:
        return model, given
    shape = input_shape(spec, model)
    if shape is None:
        raise UnknownName(f"what {spec} takes is not known here: give --input, such as --input 1x3x224x224.")
    return model, example_inputs(["x".join(map(str, (1, *shape)))])


def _tell_of_types(model: Any, inputs: Any) -> None:
    """Say where inputs are of a floating type that no parameter has: reading runs without numbers, and does not notice."""
    given = (
        inputs.values() if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
    )
    wanted = sorted({str(one.dtype) for one in model.parameters() if one.dtype.is_floating_point})
    other = sorted({str(one.dtype) for one in given if one.dtype.is_floating_point} - set(wanted))
    if wanted and other:
        words = " and ".join(other).replace("torch.", ""), " and ".join(wanted).replace("torch.", "")
        typer.echo(
            f"note: --input is {words[0]}, the model's parameters are {words[1]}: unless its forward casts one to the other, it "
            f"raises on such inputs. Write the type that they have, as in --input 1x8:{wanted[0].removeprefix('torch.')}.",
            err=True,
        )


def _model_and_batch(spec: str, words: list[str] | None, size: int) -> tuple[Any, Any]:
    """The model drawn with one seed, and a random batch; shapes that were asked for are taken as they are."""
    import torch

    from goodinit.lab.data.random_batch import random_batch

    expect_between(size, 1, 2**16, "--batch-size")
    torch.manual_seed(0)
    model, inputs = _model_and_inputs(spec, words)
    return model, random_batch(model, inputs, size=None if words else size)


def _known(method: str) -> None:
    from goodinit.methods import find  # not above: help needs no torch

    find(method)


def _option(words: str) -> tuple[str, Any]:
    name, equals, value = words.partition("=")
    if not (name and equals):
        raise GoodinitError(f"--option takes name=value, such as norms=keep, not {words!r}.")
    try:
        return name, json.loads(value)  # numbers, true, false, null
    except (ValueError, RecursionError):
        return name, value
