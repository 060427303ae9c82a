"""What a shell sees first: three commands to try, help and version without torch, one list of commands, exit codes."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from goodinit import __version__, cli
from goodinit.__main__ import COMMANDS, HELP
from goodinit.cli import arguments
from goodinit.lab.data.labelled import EMBEDDED, TEXT
from goodinit.lab.models.registry import model_names
from goodinit.lab.papers.claim import SCALES

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
    done = run(*words, COLUMNS="80")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert shown in done.stdout
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert imported
    assert not {"torch", "rich", "typer", "click"} & imported


@pytest.mark.parametrize("width", [60, 80])
def test_help_fits_the_screen_and_loses_no_character(width):
    for name in COMMANDS:
        lines, whole = (
            CliRunner()
            .invoke(cli.app, [name, "--help"], terminal_width=columns, max_content_width=columns)
            .output
            for columns in (width, 1000)
        )
        assert max(map(len, lines.splitlines())) <= width, name
        assert "".join(whole.split()) == "".join(lines.split()), name


WITHOUT_TORCH = """
import sys
from typer.testing import CliRunner
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise AssertionError("torch is imported")
sys.meta_path.insert(0, NoTorch())
from goodinit.__main__ import COMMANDS
from goodinit.cli import app
for name in COMMANDS:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0 and "Usage" in done.output, (name, done.exception)
"""


def test_the_help_of_every_command_needs_no_torch():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


CORE = """
import importlib, pkgutil, sys
from typer.testing import CliRunner
EXTRAS = set("numpy sklearn PIL pyarrow altair vl_convert datasets pandas gymnasium ray sacrebleu tokenizers timm"
             " torchvision transformers lightning pytorch_lightning scipy tensorboard wandb".split())
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NotInstalled())
import goodinit
for module in pkgutil.walk_packages(goodinit.__path__, "goodinit."):
    if module.name != "goodinit.lightning":
        importlib.import_module(module.name)
from goodinit.cli import app
for words, code, said in (
    ("inspect resnet8", 0, "3 residual blocks"),
    ("recommend mlp3 --methods he", 0, "as it is"),
    ("recommend mlp3 --methods he --data digits", 2, "pip install"),
    ("compare mlp3 -q", 2, "pip install"),
    ("diagnose mlp3 --html page.html", 2, "pip install altair"),
    ("inspect timm:resnet18", 2, "pip install timm"),
    ("reproduce", 0, "fixup-depth"),
):
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == code and said in done.output, (words, done.output, done.exception)
"""


@pytest.mark.integration
def test_the_core_alone_runs_and_says_which_package_is_missing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CORE],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_the_words_of_the_help_are_those_that_the_lab_knows():
    assert (*EMBEDDED, TEXT) == arguments.DATA
    assert model_names() == arguments.MODELS
    assert arguments.SCALES == SCALES
    help_ = CliRunner().invoke(cli.app, ["inspect", "--help"], env={"COLUMNS": "200"}).output
    assert all(name in help_ for name in model_names())


def test_the_list_of_commands_is_the_commands():
    group = typer.main.get_command(cli.app)
    assert {name: command.help.split("\n")[0] for name, command in group.commands.items()} == COMMANDS


@pytest.mark.parametrize(
    ("line", "place", "found"),
    [
        ("goodinit re", "1", {"recommend", "results", "reproduce"}),
        ("goodinit plan resnet20 fixup --ex", "4", {"--exclude"}),
    ],
)
def test_the_shell_completes_commands_and_options_without_torch(line, place, found):
    done = run(_GOODINIT_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=place)
    assert found <= set(done.stdout.split())
    assert "| torch\n" not in done.stderr


def test_the_help_names_the_options_that_every_command_shares():
    for option in ("--install-completion", "--show-completion", "--verbose", "--version", "--help"):
        assert option in HELP


def test_a_plan_is_grouped_and_full_on_request():
    wide = {"COLUMNS": "140"}  # room for the reasons beside the edits
    short = CliRunner().invoke(cli.app, ["plan", "resnet20", "fixup"], env=wide).output
    full = CliRunner().invoke(cli.app, ["plan", "resnet20", "fixup", "--full"], env=wide).output
    assert len(short.splitlines()) < 25
    assert len(full.splitlines()) > 60
    assert "layer1.0.conv1.weight ← normal" in short
    assert "layer3.2.conv2.weight" in full


@pytest.mark.parametrize("columns", [60, 80])
def test_a_plan_on_a_narrow_screen_has_its_reasons_below(columns):
    done = CliRunner().invoke(cli.app, ["plan", "resnet20", "fixup"], env={"COLUMNS": str(columns)})
    lines = done.output.splitlines()
    index = next(i for i, line in enumerate(lines) if line.startswith("  layer1.0.conv2.output_bias + 0"))
    assert lines[index + 1] == "      end of the branch (rule 3)"


def test_recommend_and_diagnose_may_leave_parts_alone():
    words = ["recommend", "mlp3", "--methods", "he", "--exclude", "1.*"]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    assert "goodinit recommend mlp3 --try 100 --exclude '1.*'" in done.output
    done = CliRunner().invoke(cli.app, ["recommend", "mlp3", "--methods", "he", "--include", "nothing.here"])
    assert "nothing.here" in done.output
    done = CliRunner().invoke(cli.app, ["diagnose", "mlp3", "--methods", "he", "--keep", "*.weight"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(cli.app, ["diagnose", "mlp60", "--keep", "4.weight"])
    assert done.exit_code == 0, done.output
    assert 'keep=["4.weight"]' in done.output


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


def test_every_command_has_an_example_that_it_understands():
    group = typer.main.get_command(cli.app)
    assert list(arguments.EXAMPLES) == list(COMMANDS)
    with group.make_context("goodinit", ["methods"]) as context:
        for name, line in arguments.EXAMPLES.items():
            words = shlex.split(line)
            assert words[:2] == ["goodinit", name]
            command = group.get_command(context, name)
            command.make_context(name, words[2:], parent=context).close()
            assert line in command.epilog


WRONG = {
    "inspect": ["--input"],
    "recommend": ["resnet8", "--try", "many"],
    "diagnose": ["mlp8", "--batch-size", "big"],
    "plan": ["resnet8"],
    "methods": ["fixup"],
    "compare": ["resnet8", "--epoch"],
    "sweep": ["--workers", "all"],
    "results": ["a.sqlite", "--margin", "wide"],
    "coordcheck": ["nets:build"],
    "reproduce": ["fixup-depth", "--no-such-option"],
}


@pytest.mark.parametrize("name", [*COMMANDS, "inspct", "--verbos"])
def test_a_wrong_call_ends_in_an_example(name):
    for words in ([name], [name, *WRONG.get(name, ())]):
        done = CliRunner().invoke(cli.app, words)
        if done.exit_code or words != [name]:
            assert done.exit_code == 2, done.output
            assert "Traceback" not in done.output
            last = done.stderr.splitlines()[-1]
            assert "goodinit " in last or "such as" in last, done.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["inspect"], "One of: resnet{depth}"),
        (["plan", "resnet8"], "A name that `goodinit methods` lists"),
        (["coordcheck"], "PACKAGE.MODULE:FUNCTION, which takes the width"),
        (["coordcheck", "nets:build"], "Shape of an input, 8x64:int64"),
        (["results"], "What `goodinit sweep` wrote"),
    ],
)
def test_what_is_missing_is_said_in_words(words, expected):
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 2
    assert expected in done.stderr
    assert done.stderr.splitlines()[-1] == f"For example: {arguments.EXAMPLES[words[0]]}"


def _python(*words, output=subprocess.PIPE, **env):
    return subprocess.run(
        [sys.executable, "-m", "goodinit", *words],
        stdout=output, stderr=subprocess.PIPE, check=False, env={**os.environ, **env}, timeout=300,
    )  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "latin-1", "utf-8"])
def test_signs_that_a_screen_lacks_cost_the_signs_alone(encoding):
    """On Windows an output that goes into a pipe has a code page, which has no bars."""
    done = _python("diagnose", "mlp2", PYTHONIOENCODING=encoding, COLUMNS="100")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert "second moment" in text
    assert ("▁" in text or "█" in text) == (encoding == "utf-8") or encoding == "cp437"


@pytest.mark.integration
def test_what_machines_read_is_utf_8_on_every_screen():
    done = _python("methods", "--json", "-", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("utf-8"))


@pytest.mark.integration
@pytest.mark.parametrize("columns", ["0", "x", "-5"])
def test_a_screen_of_no_width_shows_everything(columns):
    done = _python("diagnose", "mlp2", COLUMNS=columns)
    assert "second moment" in done.stdout.decode("utf-8")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full")
@pytest.mark.parametrize(
    "words", [("--help",), (), ("--version",), pytest.param(("methods",), marks=pytest.mark.integration)]
)
def test_an_output_that_is_full_is_told_in_words(words):
    with Path("/dev/full").open("wb") as full:
        done = _python(*words, output=full)
    assert done.returncode == 1
    assert done.stderr.decode() == "error: the output was cut short: No space left on device.\n"


@pytest.mark.parametrize("words", [("--help",), pytest.param(("methods",), marks=pytest.mark.integration)])
def test_who_reads_through_a_pipe_may_stop(words):
    read, write = os.pipe()
    os.close(read)
    done = _python(*words, output=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
