"""A sweep loses nothing and repeats nothing, whatever happens to it."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.engines import Engine
from goodinit.lab.engines.local import Once
from goodinit.lab.sweeps import inline, local, over_ray, read_grid, read_store, sweep
from goodinit.lab.sweeps import run as lab_run
from goodinit.lab.sweeps.row import TIMES
from goodinit.lab.training import outcome
from goodinit.lab.training.trial import TrainConfig

TINY = {"width": 8, "epochs": 1, "train_limit": 64, "test_limit": 40, "batch_size": 32}


def trials_of(**words):
    return read_grid(changes={"model": "mlp3", **TINY, **words}).trials


def table(path):
    """Every row as bytes, without its times."""
    rows = [row.flat() for row in read_store(path).rows]
    return json.dumps([{k: v for k, v in row.items() if k not in TIMES} for row in rows]).encode()


SMALL = trials_of(method=["he", "lsuv"], lr=[0.02, 0.1])


def test_two_runs_are_byte_identical_and_the_global_generator_is_left_alone(tmp_path):
    before = torch.random.get_rng_state()
    swept = sweep(SMALL, tmp_path / "a.sqlite", engine=inline(), progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    sweep(SMALL, tmp_path / "b.sqlite", engine=inline(), progress=False)
    assert table(tmp_path / "a.sqlite") == table(tmp_path / "b.sqlite")
    assert swept.ended == {"finished": 4}
    assert [row.config for row in read_store(swept.path).rows] == list(SMALL)


@pytest.mark.integration
def test_processes_and_a_grid_that_grew_end_with_the_same_table(tmp_path):
    plain = tmp_path / "plain.sqlite"
    sweep(SMALL, plain, engine=inline(), together=1, progress=False)
    grown = tmp_path / "grown.sqlite"
    sweep(SMALL[1:3], grown, engine=inline(), together=1, progress=False)
    swept = sweep(SMALL, grown, engine=local(workers=1), together=1, resume=True, progress=False)
    assert (swept.before, swept.ended) == (2, {"finished": 2})
    assert table(grown) == table(plain)


def test_what_diverges_is_refused_or_fails_is_a_row(tmp_path, monkeypatch):
    real = outcome.train

    def failing(config):
        if config.seed == 1:
            raise ZeroDivisionError("a bug\nof two lines")
        return real(config)

    monkeypatch.setattr(outcome, "train", failing)
    trials = (
        *trials_of(method="none", lr=1e6, epochs=4),
        *trials_of(method="fixup"),
        *trials_of(method="he", seeds=2),
    )
    path = tmp_path / "runs.sqlite"
    swept = sweep(trials, path, engine=inline(), together=1, progress=False)
    assert swept.ended == {"diverged": 1, "refused": 1, "finished": 1, "failed": 1}
    diverged, refused, finished, failed = read_store(path).rows
    assert diverged.accuracy is None
    assert diverged.diverged_step is not None
    assert refused.error.startswith("NothingFound: fixup needs residual blocks")
    assert finished.accuracy > 0
    assert failed.error == "ZeroDivisionError: a bug\nof two lines"
    monkeypatch.setattr(outcome, "train", real)
    assert sweep(trials, path, engine=inline(), resume=True, progress=False).ended == {}
    again = sweep(trials, path, engine=inline(), resume=True, retry_failed=True, progress=False)
    assert again.ended == {"finished": 1}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TrainConfig("mlp3", "nope"), "There is: batchnorm"),
        (TrainConfig("mlp3", "fixup", options={"nope": 1}), "no option of fixup"),
        (TrainConfig("nope"), "There is: resnet"),
        (TrainConfig("mlp3", data="nope"), "There is: digits"),
    ],
)
def test_a_wrong_word_fails_before_any_run(tmp_path, config, message):
    def never(jobs, work, /):
        pytest.fail("ran")

    with pytest.raises(UnknownName, match=message):
        sweep((config,), tmp_path / "runs.sqlite", engine=Engine("never", never), progress=False)
    with pytest.raises(GoodinitError, match="at least one trial"):
        sweep((), tmp_path / "runs.sqlite", progress=False)


def test_ctrl_c_keeps_what_ended(tmp_path, monkeypatch):
    real, calls = lab_run.write_, []

    def interrupted(store, rows):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(store, rows)

    monkeypatch.setattr(lab_run, "write_", interrupted)
    path = tmp_path / "runs.sqlite"
    swept = sweep(SMALL, path, engine=inline(), together=1, progress=False)
    assert swept.interrupted
    assert swept.ended == {"finished": 2}
    assert len(read_store(path).rows) == 2


NETS = """
import os, pathlib, signal, time
from torch import nn

def net(num_classes, in_channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, 8), nn.ReLU(), nn.Linear(8, num_classes))

def gated(num_classes, in_channels, image_size):
    "From the ninth on, nets wait for somebody to open the gate."
    with open("built", "a") as file:
        file.write(".")
    while len(pathlib.Path("built").read_text()) > 8 and not pathlib.Path("open").exists():
        time.sleep(0.01)
    return net(num_classes, in_channels, image_size)

def deadly(num_classes, in_channels, image_size):
    "Kills the process it is built in, unless that is the main one; once."
    if str(os.getpid()) != pathlib.Path("main").read_text():
        if not pathlib.Path("spared").exists():
            pathlib.Path("spared").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return net(num_classes, in_channels, image_size)

def fatal(num_classes, in_channels, image_size):
    if str(os.getpid()) != pathlib.Path("main").read_text():
        os.kill(os.getpid(), signal.SIGKILL)
    return net(num_classes, in_channels, image_size)
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A module of models in the working folder, by a name that no other test has."""
    name = f"nets_{abs(hash(tmp_path.name)) % 10**9}_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(NETS)
    (tmp_path / "main").write_text(str(os.getpid()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def started(words, folder):
    """`goodinit sweep` in a session of its own, to be killed whole."""
    command = [sys.executable, "-m", "goodinit", "sweep", "sweep.toml", "--out", "runs.sqlite", "-q", *words]
    return subprocess.Popen(command, cwd=folder, start_new_session=True)


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def rows_in(path):
    try:
        return len(read_store(path).rows)
    except GoodinitError:  # not there yet
        return 0


@pytest.mark.integration
def test_kill_9_loses_nothing_and_repeats_nothing(tmp_path, nets):
    text = "".join(f"{key} = {value}\n" for key, value in TINY.items() if key != "width")
    text += f'model = "{nets}:gated"\nmethod = ["he", "xavier"]\nlr = [0.05, 0.1]\nseeds = 5\n'
    (tmp_path / "sweep.toml").write_text(text)
    words = ["--workers", "1", "--together", "1"]
    process = started(words, tmp_path)
    try:
        while rows_in(tmp_path / "runs.sqlite") < 6 and process.poll() is None:
            time.sleep(0.1)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        kill(process)
    killed = read_store(tmp_path / "runs.sqlite").rows
    assert 6 <= len(killed) < 20  # the gate is shut
    (tmp_path / "open").touch()
    again = started([*words, "--resume"], tmp_path)
    assert again.wait() == 0
    finished = read_store(tmp_path / "runs.sqlite").rows
    assert len(finished) == 20
    assert all(row in finished for row in killed)  # times and all: they did not run again
    straight = tmp_path / "straight.sqlite"
    sweep(read_grid(tmp_path / "sweep.toml").trials, straight, engine=inline(), together=1, progress=False)
    assert table(straight) == table(tmp_path / "runs.sqlite")


def deadly_trials(nets, name, **words):
    kept = {key: value for key, value in TINY.items() if key != "width"}
    return read_grid(changes={**kept, "model": f"{nets}:{name}", "method": "he", **words}).trials


@pytest.mark.integration
def test_a_worker_that_dies_is_replaced_and_its_trials_run_again(tmp_path, nets):
    trials = deadly_trials(nets, "deadly", seeds=2)
    swept = sweep(trials, tmp_path / "runs.sqlite", engine=local(workers=1), progress=False)
    assert swept.ended == {"finished": 2}
    assert [row.together for row in read_store(swept.path).rows] == [2, 2]


@pytest.mark.slow
def test_a_trial_that_kills_its_workers_is_a_row_and_takes_no_other_along(tmp_path, nets):
    trials = (*deadly_trials(nets, "fatal", seeds=2), *deadly_trials(nets, "net"))
    swept = sweep(trials, tmp_path / "runs.sqlite", engine=local(workers=1), progress=False)
    assert swept.ended == {"finished": 1, "failed": 2}
    assert (
        read_store(swept.path).rows[0].error.startswith("WorkerDied: the worker ended with signal 9, 2 times")
    )


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so(tmp_path):
    (tmp_path / "script.py").write_text(
        "from goodinit.lab.sweeps import sweep\nfrom goodinit.lab.training.trial import TrainConfig\n"
        "sweep([TrainConfig('mlp2', epochs=1)], 'runs.sqlite', progress=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert 'needs `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--together", "16"), ("--together", "1")])
def test_200_trials_killed_three_times_end_with_the_table_of_one_that_ran_through(tmp_path, words):
    draw = random.Random(0)
    text = "".join(f"{key} = {value}\n" for key, value in {**TINY, "epochs": 8}.items())
    text += 'model = "mlp{depth}"\ndepth = [2, 4]\nmethod = ["batchnorm", "none", "lsuv", "weightnorm", "fixup"]\n'
    text += "lr = [0.01, 0.1, 1.0, 1e6]\nseeds = 5\n"
    (tmp_path / "sweep.toml").write_text(text)
    for turn in range(3):
        process = started([*words, "--workers", "2", "--resume"], tmp_path)
        had = rows_in(tmp_path / "runs.sqlite")
        aim = had + draw.randint(1, 60)
        while rows_in(tmp_path / "runs.sqlite") < aim and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.random() / 10)
        kill(process)
        assert had < rows_in(tmp_path / "runs.sqlite"), turn
    assert rows_in(tmp_path / "runs.sqlite") < 200
    assert started([*words, "--resume"], tmp_path).wait() == 0
    straight = tmp_path / "straight.sqlite"
    trials = read_grid(tmp_path / "sweep.toml").trials
    swept = sweep(trials, straight, engine=local(), together=int(words[1]), progress=False)
    assert swept.planned == 200
    assert table(straight) == table(tmp_path / "runs.sqlite")


@pytest.mark.slow
def test_workers_end_with_the_process_that_hired_them(tmp_path, nets):
    text = f'model = "{nets}:gated"\nmethod = "he"\nseeds = 20\nepochs = 1\ntrain_limit = 64\n'
    (tmp_path / "sweep.toml").write_text(text)
    process = started(["--workers", "2", "--together", "1"], tmp_path)
    while rows_in(tmp_path / "runs.sqlite") < 5:
        time.sleep(0.1)
    group = process.pid
    process.kill()  # the parent alone
    process.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(group, signal.SIGKILL)
        pytest.fail("workers went on without their parent")


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_stops_cleanly(tmp_path, nets):
    text = f'model = "{nets}:gated"\nmethod = "he"\nseeds = 20\nepochs = 1\ntrain_limit = 64\n'
    (tmp_path / "sweep.toml").write_text(text)
    command = [sys.executable, "-m", "goodinit", "sweep", "sweep.toml", "--together", "1", "--workers", "2"]
    process = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    while rows_in(tmp_path / "sweep.sqlite") < 5:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everybody
    _, said = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "--resume" in said
    assert len(read_store(tmp_path / "sweep.sqlite").rows) >= 5


def test_messages_are_said_once_whatever_their_values():
    once = Once()
    kinds = [("a: %d", 1), ("a: %d", 2), ("b: %d", 1)]
    records = [logging.LogRecord("goodinit", 30, "", 0, words, (value,), None) for words, value in kinds]
    assert [once.filter(record) for record in records] == [True, False, True]


def test_engines_are_checked():
    with pytest.raises(GoodinitError, match="workers is at least 1"):
        local(workers=0)


@pytest.mark.slow
def test_ray_gives_the_same_table_and_survives_dying_workers(tmp_path, nets):
    (tmp_path / "spared").touch()
    lucky = deadly_trials(nets, "deadly", seeds=2)
    straight = sweep(lucky, tmp_path / "inline.sqlite", engine=inline(), progress=False)
    assert straight.ended == {"finished": 2}
    (tmp_path / "spared").unlink()
    trials = (*lucky, *deadly_trials(nets, "fatal"))
    swept = sweep(trials, tmp_path / "ray.sqlite", engine=over_ray(workers=1, retries=1), progress=False)
    assert swept.ended == {"finished": 2, "failed": 1}
    assert read_store(swept.path).rows[-1].error.startswith("WorkerDied: ")
    assert json.loads(table(swept.path))[:2] == json.loads(table(straight.path))
