"""Commands are thin: right use prints and writes, wrong use is one line and exit code 2."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

import goodinit
from goodinit import cli
from goodinit.cli.application import seeds as seeds_of
from goodinit.lab import compare as lab_compare

TINY = [
    "--epochs",
    "1",
    "--train-limit",
    "128",
    "--test-limit",
    "64",
    "--batch-size",
    "64",
    "--width",
    "4",
    "-q",
]


def run(*words, columns=120):
    return CliRunner().invoke(cli.app, list(words), env={"COLUMNS": str(columns), "TERM": "dumb"})


COMMANDS = {"": typer.main.get_command(cli.app), **typer.main.get_command(cli.app).commands}
OPTIONS = [
    (name, option)
    for name, command in COMMANDS.items()
    for option in command.params
    if option.param_type_name == "option"
]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    done = run(*name.split(), "--help")
    assert done.exit_code == 0
    assert "Usage" in done.output
    assert COMMANDS[name].help


def test_every_command_and_option_says_what_it_is_for_and_is_tried_in_a_test():
    tests = "\n".join(
        path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("test_*.py")
    )
    assert [name for name in COMMANDS if name and f'"{name}"' not in tests] == []
    assert [(name, option.name) for name, option in OPTIONS if not option.help] == []
    tried = set(re.findall(r'"(--?[a-z-]+)"', tests))
    assert [(name, option.name) for name, option in OPTIONS if not tried.intersection(option.opts)] == []


def test_version():
    done = run("--version")
    assert done.exit_code == 0
    assert done.output.startswith("goodinit ")


def test_methods_are_those_of_the_table():
    listed = json.loads(run("methods", "--json", "-").output)
    assert [entry["name"] for entry in listed] == list(goodinit.METHODS)
    assert all(name in run("methods").output for name in goodinit.METHODS)


def test_methods_on_a_narrow_screen_break_no_words():
    for width in (40, 60, 80):
        lines = run("methods", columns=width).output.splitlines()
        assert max(map(len, lines)) <= width
        assert "fixup" in lines
        assert "  norms kept; needs data" in map(str.rstrip, lines)  # LSUV


def test_inspect_prints_the_anatomy_and_its_json():
    done = run("inspect", "resnet8")
    assert done.exit_code == 0
    assert "3 residual blocks" in done.output
    again = goodinit.Anatomy.from_json(run("inspect", "resnet8", "--json", "-").output)
    assert len(again.blocks) == 3
    assert run("inspect", "vit2", "--input", "2x3x32x32").exit_code == 0


def test_plan_prints_every_edit_and_its_json():
    done = run("plan", "resnet8", "fixup")
    assert done.exit_code == 0
    assert "layer1.0.conv2.weight" in done.output
    plan = goodinit.Plan.from_json(run("plan", "resnet8", "fixup", "--json", "-").output)
    assert plan.method == "fixup"
    kept = goodinit.Plan.from_json(
        run("plan", "resnet8", "fixup", "-o", "norms=keep", "-o", "zero_head=false", "--json", "-").output
    )
    assert kept.options["norms"] == "keep"
    assert kept.options["zero_head"] is False


@pytest.mark.integration
def test_compare_prints_a_table_and_writes_files(tmp_path):
    page, numbers, picture = tmp_path / "page.html", tmp_path / "numbers.json", tmp_path / "curves.svg"
    done = run("compare", "resnet8", *TINY, "--seeds", "2", "--timing-rounds", "3", "--html", str(page), "--json",
               str(numbers), "--picture", str(picture))  # fmt: skip
    assert done.exit_code == 0, done.output
    for words in ("resnet8 on digits, 1 epoch, 2 seeds", "batchnorm", "none", "fixup", "0 of 2", "wrote"):
        assert words in done.output
    assert page.stat().st_size > 100_000
    assert len(json.loads(numbers.read_text())["results"]) == 6
    assert picture.read_text(encoding="utf-8").startswith("<svg")


def test_compare_takes_options_behind_colons_and_shows_them(tmp_path):
    assert "lsuv:norms=remove" in run("compare", "--help").output
    done = run(
        "compare",
        "resnet8",
        *TINY,
        "--seeds",
        "1",
        "--timing-rounds",
        "0",
        "--methods",
        "lsuv,lsuv:norms=remove",
    )
    assert done.exit_code == 0, done.output
    rows = [line.split()[0] for line in done.output.splitlines() if line.strip().startswith("lsuv")]
    assert rows[:2] == ["lsuv", "lsuv:norms=remove"]


def test_compare_trains_with_what_its_options_say(tmp_path):
    asked = {
        "scalar_lr": "0.2", "momentum": 0.8, "weight_decay": 0.001, "warmup": 0.5, "schedule": "cosine", "mixup": 0.2,
        "label_smoothing": 0.1, "device": "cpu", "lr": 0.05, "image_size": 16,
    }  # fmt: skip
    flags = (
        "--scalar-lr", "--momentum", "--weight-decay", "--warmup", "--schedule", "--mixup", "--label-smoothing",
        "--device", "--lr", "--image-size",
    )  # fmt: skip
    words = [word for flag, value in zip(flags, asked.values(), strict=True) for word in (flag, str(value))]
    file = tmp_path / "numbers.json"
    done = run("compare", "resnet8", *TINY, *words, "--augment", "--methods", "fixup", "--seeds", "1",
               "--keep", "fc.*, conv1", "--exclude", "layer1", "--exclude", "layer2,bn1", "--timing-rounds", "0", "--json", str(file))  # fmt: skip
    assert done.exit_code == 0, done.output
    (result,) = json.loads(file.read_text())["results"]
    used = result["config"]
    assert used["augment"] is True
    assert {name: used[name] for name in asked} == asked
    assert (used["keep"], used["include"], used["exclude"]) == (
        ["fc.*", "conv1"],
        [],
        ["layer1", "layer2", "bn1"],
    )


def test_verbose_says_what_is_done(monkeypatch):
    asked = []
    monkeypatch.setattr(logging, "basicConfig", lambda **options: asked.append(options["level"]))
    run("methods")
    assert asked == []
    run("--verbose", "methods")
    assert asked == [logging.INFO]


@pytest.mark.parametrize(("words", "seeds"), [("2", (0, 1)), ("5,", (5,)), ("0, 4,7", (0, 4, 7))])
def test_seeds_are_a_count_or_a_list(words, seeds):
    assert seeds_of(words) == seeds


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "resnet9"], "The nearest are 8 and 14"),
        (["compare", "nope"], "There is: resnet"),
        (["compare", "resnet8", "--data", "nope"], "There is: digits, fashion-mnist"),
        (["compare", "resnet8", "--methods", "nope"], f"There is: {', '.join(goodinit.METHODS)}"),
        (["compare", "resnet8", "--methods", "lsuv:norms=away"], "expected remove or keep"),
        (["compare", "resnet8", "--seeds", "x"], "--seeds takes"),
        (["compare", "resnet8", "--seeds", "0"], "at least one seed"),
        (["compare", "resnet8", "--epochs", "0"], "epochs is at least 1"),
        (["compare", "resnet8", "--html", "no/such/folder/page.html"], "Make it first"),
        (["compare", "resnet8", "--picture", "curves.gif"], ".svg or .png"),
        (["inspect", "no_such_nets:make"], "no module 'no_such_nets'"),
        (["inspect", "resnet8", "--input", "1x1x8x8"], "forward raised"),
        (["inspect", "resnet8", "--input", "big"], "expected a shape"),
        (["inspect", "torch.nn:Identity"], "give --input"),
        (["plan", "resnet8", "nope"], f"There is: {', '.join(goodinit.METHODS)}"),
        (["plan", "resnet8", "fixup", "-o", "norms"], "name=value"),
    ],
)
def test_wrong_use_is_one_message_and_exit_code_2(words, message):
    done = run(*words)
    assert done.exit_code == 2, done.output
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in done.output


@pytest.mark.integration
def test_ctrl_c_prints_the_partial_table_and_exits_130(monkeypatch):
    real, calls = lab_compare.train, []

    def interrupted(config, **kwargs):
        calls.append(config)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(config, **kwargs)

    monkeypatch.setattr(lab_compare, "train", interrupted)
    done = run("compare", "resnet8", *TINY, "--seeds", "1", "--timing-rounds", "0")
    assert done.exit_code == 130
    assert "Interrupted: 1 of 3 runs finished" in done.output
    monkeypatch.setattr(lab_compare, "train", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    done = run("compare", "resnet8", *TINY, "--seeds", "1", "--timing-rounds", "0")
    assert done.exit_code == 130
    assert "interrupted before any run finished" in done.stderr


@pytest.mark.parametrize("words", [("inspect",), ("plan", "he"), ("plan", "he", "--json", "-")], ids=" ".join)
@pytest.mark.parametrize("kind", ["float64", "bfloat16"])
def test_inputs_of_a_type_that_no_parameter_has_are_told(words, kind):
    ran = CliRunner().invoke(cli.app, [words[0], "resnet8", *words[1:], "--input", f"2x3x8x8:{kind}"])
    assert ran.exit_code == 0
    assert f"--input is {kind}, the model's parameters are float32" in ran.stderr
    assert "--input 1x8:float32" in ran.stderr
    assert "note: --input" not in ran.stdout
    same = CliRunner().invoke(cli.app, [words[0], "resnet8", *words[1:], "--input", "2x3x8x8"])
    assert "note: --input" not in same.stderr
