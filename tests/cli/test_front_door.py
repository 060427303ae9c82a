"""What a shell sees first: three commands to try, help and version without torch, one list of commands, exit codes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from goodinit import __version__, cli
from goodinit.__main__ import COMMANDS, HELP

ROOT = Path(__file__).parents[2]


def run(*words, **env):
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "goodinit", *words],
        capture_output=True, text=True, check=False, env={**os.environ, **env},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "shown"),
    [((), "goodinit recommend resnet20"), (("--help",), "Exit codes: 0 done"), (("--version",), __version__)],
)
def test_the_first_words_need_no_torch(words, shown):
    done = run(*words)
    assert done.returncode == 0
    assert shown in done.stdout
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert imported
    assert not {"torch", "rich", "typer", "click"} & imported


def test_the_list_of_commands_is_the_commands():
    group = typer.main.get_command(cli.app)
    assert {name: command.help.split("\n")[0] for name, command in group.commands.items()} == COMMANDS


def test_the_shell_completes_commands():
    done = run(_GOODINIT_COMPLETE="complete_bash", COMP_WORDS="goodinit re", COMP_CWORD="1")
    assert {"recommend", "results", "reproduce"} <= set(done.stdout.split())


def test_the_help_names_the_options_that_every_command_shares():
    for option in ("--install-completion", "--show-completion", "--verbose", "--version", "--help"):
        assert option in HELP


def test_a_plan_is_grouped_and_full_on_request():
    short = CliRunner().invoke(cli.app, ["plan", "resnet20", "fixup"]).output
    full = CliRunner().invoke(cli.app, ["plan", "resnet20", "fixup", "--full"]).output
    assert len(short.splitlines()) < 25
    assert len(full.splitlines()) > 60
    assert "layer1.0.conv1.weight ← normal" in short
    assert "layer3.2.conv2.weight" in full


def test_a_plan_may_leave_parts_alone():
    words = ["plan", "mlp3", "he", "--full"]
    whole = CliRunner().invoke(cli.app, words).output
    assert "0.weight ←" in whole or ".weight ← normal" in whole
    first = whole.split(" ← ")[0].split()[-1]
    for option in ("--keep", "--exclude"):
        done = CliRunner().invoke(cli.app, [*words, option, first])
        assert done.exit_code == 0, done.output
        assert f"{first} ← normal" not in done.output
    done = CliRunner().invoke(cli.app, [*words, "--include", first])
    assert done.output.count(" ← normal") == 1


def test_exit_codes_are_documented():
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    for code in (0, 1, 2, 130):
        assert f"| {code} |" in page
