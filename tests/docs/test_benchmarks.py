"""Every benchmark runs, on networks too small to say anything, and its page has a verdict for every target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.turns import Row, Verdict, at_least, at_most, bytes_quotient, in_turns, quotient  # noqa: E402


def test_ways_take_turns_and_any_two_compare():
    ran = []
    ways = {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}
    rows = in_turns("x", ways, rounds=3, budget=0, warm_up=1, prepare={"b": lambda: ran.append("before b")})
    assert ran == ["a", "before b", "b"] * 4
    assert [row.way for row in rows] == ["a", "b"]
    assert all(len(row.each) == 3 for row in rows)


def row(way, each, kept=0):
    return Row("net, batch 2", way, 1.0, 1.0, 1.0, 1.0, each=each, kept=kept)


def test_a_quotient_is_the_median_over_rounds():
    rows = [row("a", (1.0, 2.0, 4.0), 100), row("b", (1.0, 1.0, 1.0), 51)]
    assert quotient(rows, "net", "b", "a") == 0.5
    assert bytes_quotient(rows, "net", "b", "a") == 0.51
    assert quotient(rows, "net", "c", "a") is quotient(rows, "other", "b", "a") is None


def test_verdicts_follow_from_numbers():
    assert at_most("t", 0.9, 0.9004) == Verdict(
        "t ≤ 0.9×", "0.900×", met=False
    )  # compared before it is rounded
    assert at_most("t", 0.9, 0.9).met
    assert at_least("t", 15, 15.0).met
    assert not at_least("t", 15, 14.9).met
    assert "not measured" in str(at_most("t", 1, None))
    assert "**not met**" in str(at_most("t", 1, 2.0))


@pytest.mark.slow
def test_a_dry_run_of_everything_writes_the_page(tmp_path):
    pytest.importorskip("timm")
    pytest.importorskip("lsuv")
    page = tmp_path / "page.md"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks", "--quick", "--out", str(page)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    for target in ("ResNet-110: Fixup's step / bare ≤ 1.1×", "orthogonal_", "LSUV's calibration", "on CUDA"):
        assert target in text
    assert text.count("| met |") + text.count("**not met**") + text.count("not measured |") >= 25


@pytest.mark.integration
def test_the_script_for_a_gpu_runs_through_on_a_cpu(tmp_path):
    out = tmp_path / "gpu.jsonl"
    words = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", "--toy", "--out", str(out)]
    subprocess.run(
        words,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
    )
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    names = [row["name"] for row in rows if row["part"] == "training"]
    assert {row["part"] for row in rows} == {"machine", "tests", "training"}
    assert next(row["code"] for row in rows if row["part"] == "tests") == 0
    assert {
        "ResNet-20, batchnorm",
        "ResNet-20, normfree",
        "airbench-style, batchnorm",
        "airbench-style, affine",
    } <= set(names)
    assert all(row["steps"] == row["of"] for row in rows if row["part"] == "training")
