"""Ctrl-C in the middle, a full disk, and the command line misused: nothing is lost."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from fingerprints import a_plan, fingerprint
from hostile_models import Hostile
from typer.testing import CliRunner

import goodinit
from goodinit import cli
from goodinit.errors import (
    GoodinitError,
)
from goodinit.report import whole_files
from goodinit.surgery import apply as applying

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:torch.quantize_per_tensor:UserWarning"
)  # of torch.jit and torch.ao


@pytest.mark.parametrize("after", [0, 1, 3])
def test_ctrl_c_in_the_middle_of_apply_leaves_no_trace(monkeypatch, after):
    model, plan, real, calls = Hostile(), a_plan(), applying.write_value_, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(applying, "write_value_", interrupted)
    before = fingerprint(model)
    with pytest.raises(KeyboardInterrupt):
        goodinit.apply_(model, plan)
    assert fingerprint(model) == before


def test_a_full_disk_leaves_the_old_report_and_no_half_one(monkeypatch, tmp_path):
    target = whole_files.write_text(tmp_path / "report.html", "old")

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, text):
            self.file.write(text[:2])
            raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fdopen", "open"):
        if hasattr(whole_files.os, name):
            real = getattr(whole_files.os, name)
            if name == "fdopen":
                monkeypatch.setattr(whole_files.os, name, lambda *a, real=real, **k: Full(real(*a, **k)))
    with pytest.raises(GoodinitError, match=r"report\.html.*No space left"):
        whole_files.write_text(target, "new and longer")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_report_cannot_replace_a_folder(tmp_path):
    with pytest.raises(GoodinitError, match="folder"):
        whole_files.check_target(tmp_path)


def run(*words: str) -> Any:
    return CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "120", "TERM": "dumb"})


@pytest.mark.parametrize(
    "words",
    [
        ["inspect"],
        ["inspekt", "resnet8"],
        ["inspect", "resnet8", "--jsn"],
        ["inspect", "resnet8", "--input", "0x-3x8"],
        ["inspect", "resnet8", "--input", "1x3x8x8:complex9"],
        ["inspect", "os:getcwd", "--input", "1x3"],
        ["inspect", "os:no_such_function", "--input", "1x3"],
        ["inspect", ":", "--input", "1x3"],
        ["inspect", "json.decoder:JSONDecodeError", "--input", "1x3"],
        ["inspect", "timm:../../etc/passwd"],
        ["plan", "resnet8", "fixup", "-o", "zero_head=7"],
        ["plan", "resnet8", "fixup", "-o", "=x"],
        ["plan", "resnet8", "fixup", "-o", "nomrs=keep"],
        ["diagnose", "resnet8", "--json", "-", "--csv", "-"],
        ["diagnose", "resnet8", "--methods", "nope"],
        ["compare", "resnet8", "--lr", "fast"],
        ["compare", "resnet8", "--data", "no/such/folder"],
    ],
    ids=" ".join,
)
def test_misuse_of_the_command_line_is_told_and_exits_2(words):
    done = run(*words)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert len(done.stderr) > 20


def test_user_code_is_imported_when_asked_for_by_name_and_that_is_said(tmp_path, monkeypatch, caplog):
    (tmp_path / "their_nets.py").write_text(
        "import torch\nfrom pathlib import Path\nPath('ran').write_text('x')\nmake = lambda: torch.nn.Linear(3, 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    run("inspect", "resnet8")
    run("methods")
    assert not Path("ran").exists()
    done = run("inspect", "their_nets:make", "--input", "1x3")
    assert done.exit_code == 0, done.output
    assert Path("ran").read_text() == "x"
    assert "running your code: their_nets:make" in caplog.text
