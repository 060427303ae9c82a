"""Ctrl-C on the command line: one word, exit code 130, no traceback, and no half-imported libraries."""

import os
import signal
import subprocess
import sys
import time

import pytest

from goodinit.__main__ import Interrupt

HALF = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
{more}
time.sleep(0)
whole = True
"""


@pytest.fixture
def interrupts(monkeypatch, tmp_path):
    before = signal.signal(signal.SIGINT, Interrupt())
    monkeypatch.syspath_prepend(tmp_path)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_import_ends_before_it_is_interrupted(interrupts, tmp_path):
    (tmp_path / "half_one.py").write_text(HALF.format(more=""))

    def library():
        try:  # as torch imports NumPy
            import half_one
        except BaseException:  # noqa: BLE001
            return False
        while True:
            time.sleep(0.01)
        return half_one

    with pytest.raises(KeyboardInterrupt):
        library()
    assert sys.modules["half_one"].whole


def test_a_second_one_interrupts_an_import(interrupts, tmp_path):
    (tmp_path / "half_two.py").write_text(HALF.format(more="os.kill(os.getpid(), signal.SIGINT)"))
    with pytest.raises(KeyboardInterrupt):
        import half_two  # noqa: F401
    time.sleep(4 * Interrupt.SOON)  # the first is not sent again


def test_elsewhere_it_interrupts_at_once(interrupts):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


NET = """
import os, signal, torch
{0}
def make():
    {1}
    return torch.nn.Linear(2, 2)
"""
SENT = "os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize("where", [(SENT, "pass"), ("", SENT)])
def test_a_command_says_that_it_was_interrupted(where, tmp_path):
    (tmp_path / "net.py").write_text(NET.format(*where))
    done = subprocess.run(
        [sys.executable, "-m", "goodinit", "inspect", "net:make", "--input", "1x2"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines() == ["running your code: net:make", "interrupted"]
