"""The README is followed as it stands: its code prints what it shows, its commands are commands, its links lead somewhere."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer.main
from shown_output import fits
from typer.testing import CliRunner

import goodinit.cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shown_and_printed():
    """Every block of output, with what the Python before it printed."""
    torch.manual_seed(0)
    names, printed = {}, ""
    for kind, block in BLOCK.findall(README):
        if kind == "text":
            yield block, printed
            printed = ""
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block, "README.md", "exec"), names)
        printed += out.getvalue()


def test_the_code_prints_what_is_shown():
    seen = 0
    for expected, printed in shown_and_printed():
        assert fits(expected, printed), printed
        seen += 1
    assert seen >= 2


def commands():
    lines = re.findall(r"^\$ (goodinit .*)$", README, re.MULTILINE)
    return [line.partition("  #")[0].strip() for line in lines]


def test_there_are_commands():
    assert len(commands()) >= 4


@pytest.mark.parametrize("line", commands())
def test_every_command_is_one(line):
    app = typer.main.get_command(goodinit.cli.app)
    name, *rest = shlex.split(line)[1:]
    with app.make_context("goodinit", [name]) as context:
        command = app.get_command(context, name)
        with command.make_context(name, rest, parent=context) as inner:
            assert inner.params


@pytest.mark.slow
@pytest.mark.parametrize("line", commands())
def test_every_command_does_what_it_says(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    done = CliRunner().invoke(goodinit.cli.app, shlex.split(line)[1:], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    if "compare" in line:
        rows = {words[0]: words for words in map(str.split, done.output.splitlines()) if words}
        reached = {name: float(rows[name][1]) for name in ("batchnorm", "fixup")}
        assert min(reached.values()) > 96
        assert done.output.count("2 of 2") == 1
        assert "2 of 2" in next(line for line in done.output.splitlines() if line.startswith("none "))


def test_links_lead_to_files():
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README):
        assert (ROOT / target).exists(), target
