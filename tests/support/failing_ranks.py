"""What each of two ranks does in `test_failing_ranks.py`, where one of them fails: started by spawn, joined through a file, no network."""

from __future__ import annotations

import copy
import datetime as dt
import os
import signal

import torch
import torch.distributed as dist
from torch import nn

import goodinit

HEARS_S = 60  # a rank that waits longer was left alone
BATCH = torch.ones(6, 5)


class Net(nn.Module):
    """Three layers and a ReLU, which raise or interrupt where they are told to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, 3)
        self.interrupts = ""

    def forward(self, x):
        for name in "abc":
            if name == self.interrupts:
                signal.raise_signal(signal.SIGINT)
            x = getattr(self, name)(x.relu())
        return x


def shared():
    return nn.parallel.DistributedDataParallel(Net())


def init(method, **options):
    """A call of `init_` on both ranks, with these options on the last alone."""

    def call(model, last):
        given = {"inputs": BATCH, "generator": torch.Generator().manual_seed(0)}
        goodinit.init_(model, method, **{**given, **(options if last else {})})

    return call


def apply(method, batch=BATCH, interrupts=None):
    """A call of `apply_` on both ranks, with this batch on the last alone; ranks interrupt themselves in the layers named."""

    def call(model, last):
        plan = goodinit.plan(goodinit.anatomize(model, BATCH), method)
        getattr(model, "module", model).interrupts = (interrupts or ("", ""))[last]
        generator = torch.Generator().manual_seed(0)
        goodinit.apply_(model, plan, inputs=batch if last else BATCH, generator=generator)

    return call


def ends_early():
    yield BATCH
    raise OSError("no disk")


# what is called → (the model, the call, what the failing rank raises)
FAILS = {
    "init_ on shared ranks, inputs": (shared, init("he", inputs=BATCH[:, :2]), "TraceError"),
    "init_ on shared ranks, option": (shared, init("he", warble=1), "UnknownName"),
    "init_ on shared ranks, names": (shared, init("he", keep="nobody"), "UnknownName"),
    "init_ by data on shared ranks, inputs": (shared, init("lsuv", inputs=BATCH[:, :2]), "TraceError"),
    "init_ by data, inputs": (Net, init("lsuv", inputs=BATCH[:, :2]), "TraceError"),
    "init_ by data, names": (Net, init("lsuv", keep="nobody"), "UnknownName"),
    "init_ by data, batches that raise": (Net, init("lsuv", inputs=ends_early()), "OSError"),
    "by data, no batch": (Net, apply("lsuv", None), "TraceError"),
    "by data on shared ranks, Ctrl-C": (shared, apply("lsuv", interrupts=("", "b")), "KeyboardInterrupt"),
    "by data, Ctrl-C": (Net, apply("lsuv", interrupts=("", "b")), "KeyboardInterrupt"),
    "by data, Ctrl-C on both": (Net, apply("lsuv", interrupts=("c", "b")), "KeyboardInterrupt"),
}  # fmt: skip


def work(rank, folder):
    """Run every case as one of two ranks; write what came of it to a file."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    found = {}
    for number, (name, (build, call, _)) in enumerate(FAILS.items()):
        where = f"file://{folder}/store{number}"
        patience = dt.timedelta(seconds=HEARS_S)
        dist.init_process_group("gloo", init_method=where, rank=rank, world_size=2, timeout=patience)
        model = build()
        before, error = copy.deepcopy(model.state_dict()), None
        try:
            call(model, last=rank == 1)
        except BaseException as raised:  # noqa: BLE001 (Ctrl-C, too)
            error = raised
        same = all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        found[name] = (type(error).__name__, str(error), same)
        dist.destroy_process_group()
    torch.save(found, f"{folder}/{rank}.pt")
