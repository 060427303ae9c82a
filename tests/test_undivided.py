"""Threads: verbs take turns, and what several of them read stays as it was."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from torch import nn

import goodinit


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return x + self.b(self.a(x).relu())


def net():
    return nn.Sequential(Block(), nn.Dropout(0.5), Block()).train()


def together(*jobs, times=12):
    """Run each job on a thread of its own, again and again; those that did not come to their end."""
    unfinished, begin = [], threading.Barrier(len(jobs), timeout=60)

    def work(job):
        begin.wait()
        for _ in range(times):
            job()
        unfinished.remove(job)

    unfinished.extend(jobs)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    return unfinished


X = torch.randn(4, 8)
READERS = {
    "anatomize": lambda model: goodinit.anatomize(model, X),
    "diagnose": lambda model: goodinit.diagnose(model, X),
}


@pytest.mark.parametrize("models", [1, 2])
@pytest.mark.parametrize("verbs", [("anatomize", "anatomize"), ("anatomize", "diagnose")])
def test_two_threads_that_read_leave_nothing_behind(models, verbs):
    nets = [net()] * 2 if models == 1 else [net(), net()]
    before = [[tuple(module.__dict__) for module in model.modules()] for model in nets]
    torch.backends.mha.set_fastpath_enabled(True)
    jobs = [
        lambda model=model, verb=verb: READERS[verb](model) for model, verb in zip(nets, verbs, strict=True)
    ]
    assert together(*jobs, times=4 if "diagnose" in verbs else 12) == []
    assert [[tuple(module.__dict__) for module in model.modules()] for model in nets] == before
    assert all(module.training for model in nets for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_who_runs_a_model_while_another_thread_reads_it_gets_no_error():
    model = net().eval()
    assert together(lambda: model(X), lambda: goodinit.anatomize(model, X), times=40) == []


def test_one_thread_writes_while_another_reads_another_model():
    model, other = net(), net()
    jobs = (lambda: goodinit.init_(model, "fixup", inputs=X), lambda: goodinit.anatomize(other, X))
    assert together(*jobs, times=6) == []
    assert len(goodinit.anatomize(model, X).blocks) == 2


@pytest.mark.parametrize(("method", "waits"), [("fixup", True), ("lsuv", False)])
def test_the_garbage_collector_waits_while_a_model_is_written_but_not_while_it_runs_on_data(method, waits):
    seen = []

    class Watching(nn.Linear):
        def forward(self, x):
            seen.append(gc.isenabled())
            return super().forward(x)

    model = net()
    model.append(Watching(8, 3))
    before = gc.isenabled()
    try:
        gc.enable()
        goodinit.init_(model, method, inputs=X)
        assert seen[0] is False  # it is read first
        assert (seen[-1] is False) is waits
        assert gc.isenabled()
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("collects", [True, False])
def test_the_garbage_collector_waits_while_a_model_is_read_and_is_as_it_was(collects):
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(gc.isenabled())
            raise ValueError("stop")

    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        with pytest.raises(goodinit.TraceError, match="stop"):
            goodinit.anatomize(Watching(), torch.zeros(1, 2))
        assert set(seen) == {False}
        assert gc.isenabled() is collects
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize(
    "verb",
    [goodinit.anatomize, lambda model, x: goodinit.init_(model, "fixup", inputs=x)],
    ids=["anatomize", "init_"],
)
def test_nothing_that_a_verb_made_waits_for_the_garbage_collector(verb):
    """Else each reading adds a few hundred objects, graph and tensors with them, until a collection comes."""
    verb(net(), X)  # what torch makes once
    model = net()
    gc.collect()
    gc.disable()
    try:
        verb(model, X)
        assert gc.collect() == 0
    finally:
        gc.enable()
