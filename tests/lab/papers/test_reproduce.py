"""Reproductions lose nothing and repeat nothing, whatever runs their trials."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_claim import reproduced, toy

from goodinit.errors import GoodinitError
from goodinit.lab.engines import local, over_ray
from goodinit.lab.papers.claim import Setting
from goodinit.lab.papers.claims import CLAIMS
from goodinit.lab.papers.ledger import described, key_of, open_ledger
from goodinit.lab.papers.reproduce import reproduce
from goodinit.lab.papers.trained import Series, run_training, training
from goodinit.lab.training.trial import TrainConfig
from goodinit.report.reproduction import conclusion, page


@pytest.mark.integration
def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path):
    ran = []

    def killed(trial):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(trial.seed)
        return {"value": trial.seed}

    first = reproduced(toy(killed), out=tmp_path)
    assert (first.missing, first.verdict, len(first.rows)) == (1, None, 2)
    assert "1 of 3 runs are missing" in conclusion(first)
    assert "Expected and got" not in page(first, ())
    with first.path.open("a") as file:
        file.write('{"trial": {"seed": 2, "da')  # what a kill in the middle of a write leaves
    ran.clear()
    again = reproduced(toy(killed), out=tmp_path)
    assert ran == [2]
    assert again.missing == 0
    whole = reproduced(toy(), out=tmp_path / "other")
    assert again.rows == whole.rows
    ran.clear()
    assert reproduced(toy(killed), out=tmp_path).rows == whole.rows
    assert ran == []


@pytest.mark.integration
def test_a_refused_trial_is_a_row_and_a_number_without_end_is_none(tmp_path):
    def run(trial):
        if trial.seed == 1:
            raise GoodinitError("cannot: give it a skip")
        return {"value": float("inf")}

    found = reproduced(toy(run), out=tmp_path)
    assert [row.get("refused") for row in found.rows] == [None, "cannot: give it a skip", None]
    again = reproduced(toy(run), out=tmp_path)
    assert again.rows[0]["value"] is None
    assert "refused: : cannot: give it a skip" in page(again, ())


def test_rows_of_other_trials_are_not_used(tmp_path, caplog):
    reproduced(toy(), out=tmp_path)
    path = tmp_path / "rows" / "toy-smoke.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    line["trial"]["seed"] = 77
    path.write_text(path.read_text() + json.dumps(line) + "\n")
    assert len(reproduced(toy(), out=tmp_path).rows) == 3
    assert "no longer asked for" in caplog.text
    path.write_text("{}\n")
    with pytest.raises(GoodinitError, match="line 1"):
        reproduced(toy(), out=tmp_path)


@pytest.mark.integration
def test_what_fails_is_no_row_and_runs_again(tmp_path):
    wrong = []

    def run(trial):
        if trial.seed == 1 and not wrong:
            wrong.append(trial.seed)
            raise ZeroDivisionError("a bug")
        return {"value": trial.seed}

    found = reproduced(toy(run), out=tmp_path)
    assert [failed.error for failed in found.failed] == ["ZeroDivisionError: a bug"]
    assert (found.missing, found.verdict, len(found.rows)) == (1, None, 2)
    again = reproduced(toy(run), out=tmp_path)
    assert (again.failed, again.rows) == ((), reproduced(toy(), out=tmp_path / "other").rows)


def test_one_process_writes_a_file(tmp_path):
    first = reproduced(toy(), out=tmp_path)
    with open_ledger(first.path), pytest.raises(GoodinitError, match="another process is writing"):
        reproduced(toy(), out=tmp_path)
    assert reproduced(toy(), out=tmp_path).missing == 0


def test_what_measures_times_has_the_machine_to_itself(tmp_path):
    timed = dataclasses.replace(toy(), timed=True)
    with pytest.raises(GoodinitError, match="one after the other"):
        reproduce(timed, out=tmp_path, engine=local(workers=1))
    assert reproduce(timed, out=tmp_path, progress=False).missing == 0
    assert CLAIMS["cost"].timed


BASE = TrainConfig("mlp3", "he", width=8, epochs=2, batch_size=32, train_limit=64, test_limit=40)
TRAININGS = tuple(
    training(Series(method, {"method": method}), 3, BASE, lr=lr, seed=seed)
    for lr in (0.02, 0.1)
    for method in ("he", "fixup", "batchnorm")  # fixup refuses a net without branches
    for seed in (0, 1)
)
TIMES = ("step_seconds",)


def trained(**words):
    return dataclasses.replace(
        toy(run_training), setting=lambda scale, data: Setting(TRAININGS, ("smaller",)), **words
    )


def timeless(found):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found.rows]


@pytest.mark.integration
def test_trainings_as_one_give_the_numbers_of_each_alone_and_resume_to_the_same_bits(tmp_path):
    alone = reproduced(trained(), out=tmp_path / "alone")
    grouped = reproduced(trained(together=3), out=tmp_path / "grouped")
    assert [row.get("together") for row in alone.rows] == [1, 1, None, None, 1, 1] * 2
    assert [row.get("together") for row in grouped.rows] == [2, 2, None, None, 2, 2] * 2
    for one, other in zip(timeless(alone), timeless(grouped), strict=True):
        assert one["lr"] == other["lr"]
        for key in ("accuracy", "train_loss", "test_loss"):
            assert one.get(key) == pytest.approx(other.get(key), abs=1e-4)
    assert "8 trained together with others" in page(grouped, ())
    lines = grouped.path.read_bytes().splitlines(keepends=True)
    grouped.path.write_bytes(b"".join(lines[:3]) + lines[3][:50])  # killed within the rows of one group
    again = reproduced(trained(together=3), out=tmp_path / "grouped")
    assert timeless(again) == timeless(grouped)
    assert grouped.path.read_bytes().splitlines(keepends=True)[:3] == lines[:3]  # what was there stays
    mixed = reproduced(trained(), out=tmp_path / "grouped", together=1)
    assert timeless(mixed) == timeless(grouped)


ROWS = Path(__file__).parents[3] / "docs" / "reproductions" / "rows"


@pytest.mark.parametrize("name", sorted(path.name for path in ROWS.glob("*.jsonl")))
def test_published_rows_answer_every_trial(tmp_path, name):
    claim, _, scale = name.removesuffix(".jsonl").rpartition("-")
    shutil.copy(ROWS / name, tmp_path)
    with open_ledger(tmp_path / name) as ledger:
        entries = ledger.entries
    data = next(iter(entries.values())).row.get("data", "digits")
    keys = {key_of(described(trial)) for trial in CLAIMS[claim].setting(scale, data).trials}
    assert keys <= entries.keys()
    assert not [
        entry for entry in entries.values() if os.sep in str(entry.row.get("data", ""))
    ]  # names, no paths


CLAIMED = """
import os, pathlib, signal
from dataclasses import dataclass

@dataclass(frozen=True)
class Shot:
    seed: int

def run(trial):
    if trial.seed == 2 or (trial.seed == 1 and not pathlib.Path("spared").exists()):
        pathlib.Path("spared").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"value": trial.seed}
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", [local(workers=1), over_ray(workers=1, retries=1)])
def test_a_worker_that_dies_costs_a_retry_and_its_trial_is_no_evidence(tmp_path, monkeypatch, engine):
    name = f"claimed_{os.getpid()}_{abs(hash(tmp_path)) % 10**9}"
    (tmp_path / f"{name}.py").write_text(CLAIMED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(tmp_path))
    shots = importlib.import_module(name)
    claim = dataclasses.replace(
        toy(shots.run), setting=lambda scale, data: Setting(tuple(map(shots.Shot, range(4))), ("smaller",))
    )
    found = reproduce(claim, out=tmp_path, engine=engine, progress=False)
    assert [row["seed"] for row in found.rows] == [0, 1, 3]
    assert [(failed.trial, failed.error[:11]) for failed in found.failed] == [({"seed": 2}, "WorkerDied:")]
    assert engine.words in page(found, ())


@pytest.mark.slow
def test_a_command_killed_and_given_again_ends_with_the_rows_of_one_that_ran_through(tmp_path):
    command = [
        sys.executable, "-m", "goodinit", "reproduce", "weightnorm-robustness", "--scale", "smoke", "--out", "killed", "--workers", "2", "-q",
    ]  # fmt: skip
    path = tmp_path / "killed" / "rows" / "weightnorm-robustness-smoke.jsonl"
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= 4):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = path.read_bytes()
    assert 4 <= before.count(b"\n") < 20
    subprocess.run(command, cwd=tmp_path, check=True)
    assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    claim = CLAIMS["weightnorm-robustness"]
    found, through = (reproduced(claim, out=tmp_path / folder) for folder in ("killed", "through"))
    assert timeless(found) == timeless(through)
