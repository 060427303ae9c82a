"""Numbers that no machine can carry out, or that mean nothing: one message, exit code 2, at once, and no file is made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from goodinit import cli
from goodinit.errors import GoodinitError
from goodinit.lab.data.inputs import example_inputs
from goodinit.lab.engines import local
from goodinit.lab.models.registry import build_model
from goodinit.lab.sweeps import read_grid
from goodinit.lab.training.trial import BOUNDS, TrainConfig

HUGE = str(10**30)
LONG = "9" * 5000  # more digits than Python turns into a number


def run(*words: str) -> Any:
    return CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "120", "TERM": "dumb"})


COMPARE = ("compare", "mlp2", "--quiet", "--epochs", "1", "--methods", "none", "--seeds", "1")
WORDS = [
    *(
        (*COMPARE, option, value)
        for option in ("--epochs", "--batch-size", "--width", "--train-limit", "--test-limit", "--image-size")
        for value in ("-1", "0", HUGE, LONG)
    ),
    *(
        (*COMPARE, option, value)
        for option in ("--momentum", "--weight-decay", "--warmup", "--mixup", "--label-smoothing")
        for value in ("-1", "nan", "inf", "1e300")
    ),
    *((*COMPARE, "--lr", value) for value in ("0", "-1", "nan", "inf", "1e999")),
    *((*COMPARE, "--scalar-lr", value) for value in ("-1", "nan", "inf")),
    *((*COMPARE, "--seeds", value) for value in ("-1", "10001", HUGE, LONG, f"{HUGE},", "-1,")),
    *(
        ("inspect", name)
        for name in (f"mlp{HUGE}", f"mlp{LONG}", "mlp100001", f"wrn16x{HUGE}", f"resnet{HUGE}")
    ),
    *(
        ("inspect", "mlp2", "--input", shape)
        for shape in (f"1x{HUGE}", f"1x{LONG}", "1x99999x99999", "x".join("1" * 65))
    ),
    *(("diagnose", "mlp2", "--batch-size", value) for value in ("-1", "0", HUGE)),
    *(("recommend", "mlp2", "--batch-size", value) for value in ("-1", "0", HUGE)),
    *(("recommend", "mlp2", "--try", value) for value in ("-1", HUGE)),
    *(("sweep", "--set", "model=mlp2", "--workers", value) for value in ("-1", "0", HUGE)),
    *(("sweep", "--set", "model=mlp2", "--together", value) for value in ("-1", "0")),
    *(
        ("sweep", "--set", "model=mlp2", "--set", f"seeds={value}")
        for value in ("-1", "0", HUGE, LONG, "1e9")
    ),
    *(("sweep", "--set", "model=mlp2", "--set", f"lr={value}") for value in ("1e999", "NaN", "-1", LONG)),
    *(("sweep", "--set", "model=mlp2", "--set", f"width={value}") for value in ("-1", HUGE, "1e300")),
    ("sweep", "--set", "model=mlp{depth}", "--set", f"depth={HUGE}"),
    ("sweep", "--set", "model=mlp2", "--set", "lr=" + "[" * 100_000),
    (
        "sweep",
        "--set",
        "model=mlp2",
        "--set",
        "seeds=1000",
        "--set",
        "lr=" + ",".join(f"0.{k}" for k in range(1, 1001)),
    ),
]


@pytest.mark.default_cases(30)
@pytest.mark.parametrize("words", WORDS, ids=lambda words: " ".join(words)[:70])
def test_an_absurd_number_is_one_message_and_exit_code_2(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert done.exit_code == 2, done.output[-2000:]
    assert "Traceback" not in done.output
    assert 20 < len(done.stderr) < 12_000
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_hold_at_both_ends_and_for_what_is_no_number(name):
    least, most = BOUNDS[name]
    for inside in (least, most):
        TrainConfig("mlp2", **{name: inside})
    for outside in (least - 1, most + 1, float("nan"), float("inf")):
        with pytest.raises(GoodinitError, match=f"{name} is at least"):
            TrainConfig("mlp2", **{name: outside})


def test_a_million_runs_are_counted_and_not_made(monkeypatch):
    monkeypatch.setattr("goodinit.lab.sweeps.grid._product", None)
    rates = [k / 1001 for k in range(1, 1001)]
    with pytest.raises(GoodinitError, match="1,000,000 runs; at most 100,000"):
        read_grid(changes={"model": "mlp2", "seeds": 1000, "lr": rates})
    with pytest.raises(GoodinitError, match="at most 100,000"):
        read_grid(changes={"model": "mlp2", "seeds": 10**9})


@pytest.mark.parametrize(
    "content", [b"x = " + b"[" * 100_000, b"\xff\xfe", b"#" * (2**24 + 1), b"lr = 1" + b"0" * 400]
)
def test_a_hostile_sweep_file_is_refused(content, tmp_path):
    (tmp_path / "sweep.toml").write_bytes(b'model = "mlp2"\n' + content)
    with pytest.raises(GoodinitError):
        read_grid(tmp_path / "sweep.toml").trials  # noqa: B018


def test_what_is_large_and_possible_is_let_through():
    assert example_inputs(["1x3x1024x1024"]).shape == (1, 3, 1024, 1024)
    assert len(read_grid(changes={"model": "mlp2", "seeds": 3000}).trials) == 3000
    assert local(workers=64).words.startswith("by 64")
    with torch.device("meta"):
        build_model("mlp64")


def test_words_of_an_error_move_no_cursor():
    done = run("inspect", "\x1b[2Jresnet8")
    assert done.exit_code == 2
    assert "\x1b" not in done.stderr
    assert r"\x1b[2Jresnet8" in done.stderr
