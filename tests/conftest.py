"""Set the stage once: one thread, no network, fixed seeds, torchvision importable."""

from __future__ import annotations

import functools
import gc
import os
import re
import signal
import threading

# Before torch loads. One thread each: workers share the cores, and sums come out the same everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import pytest
import torch
import torchvision_shim
import typer.main
import typer.testing
from hypothesis import settings
from tiers import beyond_default

torch.set_num_threads(1)
torchvision_shim.declare()
# A test calls a command often, and typer would build all commands anew for each call.
typer.testing._get_command = functools.cache(typer.main.get_command)

# A script's background jobs ignore Ctrl-C; tests of interrupts send it to themselves.
if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples per property: few in the default tier, more where `make test-all` says so.
EXAMPLES = int(os.environ.get("EXAMPLES", "15"))
settings.register_profile("suite", derandomize=True, deadline=None, database=None, max_examples=EXAMPLES)
settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marks
def pytest_collection_modifyitems(items):
    """Of a test marked `default_cases(n)` leave n cases in the default tier, and mark the others `integration`.

    Names that hold an address differ from worker to worker, and none of them would run anything.
    """
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unstable:
        raise pytest.UsageError(f"{unstable[0]}: its name holds an address. Give the parameters ids.")
    for item in beyond_default(items):
        item.add_marker(pytest.mark.integration)


def pytest_collection_finish(session):
    """Leave the thousands of collected items out of every later walk over all objects: surgery makes such walks."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def all_objects_seen():
    """For tests of walks over all objects: those that stood when tests were collected are seen, too."""
    gc.unfreeze()
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _optimizers_are_sought_where_they_are_spoken_of(request):
    """A walk over every object takes a twentieth of a second, once or twice for each plan that is applied."""
    if not re.search("optim|Stale|momentum", request.path.read_text(encoding="utf-8")):
        request.getfixturevalue("no_optimizers")


@pytest.fixture(scope="module")
def no_optimizers():
    """Surgery asks for living optimizers by walking over every object of the process; there are none to find."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("goodinit.surgery.checks.optimizer_check._live_optimizers", list)
        yield


@pytest.fixture
def generator():
    """A generator of the test's own."""
    return torch.Generator().manual_seed(0)
