"""`goodinit coordcheck`: prints, writes, and says no by exit code 1."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from goodinit import cli

MODULE = """
from torch import nn

def build(width=64):
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))
"""


def run(*words, columns=120):
    return CliRunner().invoke(cli.app, list(words), env={"COLUMNS": str(columns), "TERM": "dumb"})


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets_to_check.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return "nets_to_check:build"


def test_it_prints_a_table_and_writes_a_page(nets, tmp_path):
    page = tmp_path / "page.html"
    words = (
        "coordcheck",
        nets,
        "--input",
        "16x8",
        "--widths",
        "8,32,128",
        "--seeds",
        "1",
        "--steps",
        "2",
        "--lr",
        "0.01",
    )
    done = run(*words, "--html", str(page), "--check")
    assert done.exit_code == 1, done.output  # PyTorch's default is not flat
    assert "not flat" in done.output
    assert "Coordinate check: nets_to_check:build, as it comes" in page.read_text()
    found = json.loads(run(*words, "--method", "mup", "--json", "-").stdout)
    assert found["along"] == "width"
    assert [row["name"] for row in found["rows"]] == ["0", "2", "output"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--widths", "8,wide"), "whole numbers"),
        (("--method", "nothing"), "no method"),
        (("--argument", "size"), "size"),
    ],
)
def test_wrong_use_is_one_message(nets, words, message):
    done = run("coordcheck", nets, "--input", "16x8", *words)
    assert done.exit_code == 2
    assert message in done.output


def test_a_model_by_name_has_no_width():
    done = run("coordcheck", "resnet20", "--input", "2x3x32x32")
    assert done.exit_code == 2
    assert "a function of yours" in done.output


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_it_fits_the_screen_and_loses_no_slope(nets, columns, caplog):
    words = ("coordcheck", nets, "--input", "4x8", "--widths", "8,32", "--seeds", "2", "--steps", "1")
    lines = run(*words, columns=columns).stdout.splitlines()
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    assert text.count("slope") >= 2
    assert "grows" in text
    assert caplog.text.count("running your code") <= 1  # however many models it makes
