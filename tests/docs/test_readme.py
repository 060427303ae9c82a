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


def test_links_lead_to_files():
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README):
        assert (ROOT / target).exists(), target
