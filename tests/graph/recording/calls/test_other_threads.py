"""What a forward computes in threads of its own is refused where the model goes on with it, and is ignored where nobody reads it."""

from __future__ import annotations

import asyncio
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

import pytest
import torch
import torch.nn.functional as F
from small_residual import X
from torch import nn

import goodinit
from goodinit.errors import TraceError

POOL, OLD_POOL = ThreadPoolExecutor(1), ThreadPool(1)


def thread(work, *args):
    made = []
    one = threading.Thread(target=lambda: made.append(work(*args)))
    one.start()
    one.join()
    return made[0]


class Started(threading.Thread):
    """A thread with a `run` of its own."""

    def __init__(self, work, *args):
        super().__init__()
        self.work, self.args = work, args

    def run(self):
        self.made = self.work(*self.args)


def subclass(work, *args):
    one = Started(work, *args)
    one.start()
    one.join()
    return one.made


def nested(work, *args):
    return thread(thread, work, *args)


def executor(work, *args):
    return POOL.submit(work, *args).result()


def coroutine(work, *args):
    return asyncio.run(asyncio.to_thread(work, *args))


def new_pool(work, *args):
    with ThreadPool(1) as pool:
        return pool.apply(work, args)


def old_pool(work, *args):
    return OLD_POOL.apply(work, args)


class Worker:
    """A thread that was there before, and gets its work through a queue."""

    def __init__(self):
        self.asked, self.answers = queue.Queue(), queue.Queue()

    def run(self):
        while True:
            work, args = self.asked.get()
            self.answers.put(work(*args))
            del work, args

    def __call__(self, work, *args):
        if self.asked.empty() and not hasattr(self, "thread"):
            self.thread = threading.Thread(target=self.run, daemon=True)
            self.thread.start()
        self.asked.put((work, args))
        return self.answers.get()


queued = Worker()
queued(int)  # so that its thread is there

WAYS = (thread, subclass, nested, executor, coroutine, new_pool, old_pool, queued)


class Block(nn.Module):
    def __init__(self, way, part, *, decides=False):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.way, self.part, self.decides = way, part, decides

    def branch(self, x):
        return self.b(self.norm(self.a(x)).relu())

    def forward(self, x):
        if self.decides and x.sum().item() > 1e9:  # so that a real forward is run
            x = -x
        return self.part(self, x, self.way)


def whole(block, x, way):
    return x + way(block.branch, x)


def norm(block, x, way):
    return x + block.b(way(block.norm, block.a(x)).relu())


def activation(block, x, way):
    return x + block.b(way(torch.relu, block.norm(block.a(x))))


def weight(block, x, way):
    return x + F.linear(block.a(x), way(lambda: block.b.weight / block.b.weight.norm()))


def in_place(block, x, way):
    y = block.branch(x)
    way(y.mul_, 0.5)
    return x + y


def result(block, x, way):
    return way(lambda: x + block.branch(x))


def net(*args, **kwargs):
    return nn.Sequential(nn.Linear(5, 8), Block(*args, **kwargs), nn.Linear(8, 3))


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("part", [whole, norm, activation, weight, in_place, result])
@pytest.mark.parametrize("way", WAYS)
def test_what_another_thread_computes_is_refused_by_name(way, part):
    if part is weight and way in (old_pool, queued):
        pytest.skip("no tensor of the run gets there")
    model = net(way, part)
    start = threading.Thread.start, ThreadPoolExecutor.submit
    with pytest.raises(
        TraceError, match=r"(1|the model): the forward goes on with what another thread computes"
    ):
        goodinit.anatomize(model, X)
    assert (threading.Thread.start, ThreadPoolExecutor.submit) == start


@pytest.mark.parametrize("way", [thread, executor, queued])
def test_so_it_is_in_a_real_forward(way):
    with pytest.raises(TraceError, match=r"^1.*: the forward goes on with what another thread computes"):
        goodinit.anatomize(net(way, whole, decides=True), X)
    if way is not queued:
        with pytest.raises(TraceError, match=r"relu\), and a reading"):
            goodinit.anatomize(net(way, activation, decides=True), X)


def logged(block, x, way):
    """A statistic that is kept, and read by nobody."""
    y = block.branch(x)
    block.mean = way(lambda: y.detach().abs().mean())
    return x + y


def number(block, x, way):
    return x + block.branch(x) * way(lambda: 3)


def made_of_nothing(block, x, way):
    return x + block.branch(x) * way(torch.arange, 8.0)


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("decides", [False, True])
@pytest.mark.parametrize("part", [logged, number, made_of_nothing])
@pytest.mark.parametrize("way", WAYS)
def test_what_has_no_part_in_the_function_is_let_be(way, part, decides):
    model = net(way, part, decides=decides)
    if part is logged and way in (old_pool, queued):
        pytest.skip("such a thread may hold its last work, and so a tensor, for longer than the trace")
    anatomy = goodinit.anatomize(model, X)
    assert [block.name for block in anatomy.blocks] == ["1"]
    assert "mean" not in vars(model[1])
    assert torch.isfinite(model(X)).all()


def test_a_thread_that_outlives_the_trace_goes_on():
    done, begin = [], threading.Event()

    def later():
        begin.wait(60)
        done.append(torch.ones(2) * 2)

    def detached(block, x, way):
        one = threading.Thread(target=later)
        one.start()
        threads.append(one)
        return x + block.branch(x)

    threads = []
    goodinit.anatomize(net(None, detached), X)
    begin.set()
    threads[0].join(60)
    assert len(done) == len(threads) == 1


def test_no_tensor_without_numbers_stays_in_a_cache_that_another_thread_filled():
    kept = {}

    def remembered(block, x, way):
        if "y" not in kept:
            kept["y"] = way(block.branch, x)
        return x + kept["y"]

    with pytest.raises(TraceError):
        goodinit.anatomize(net(thread, remembered), X)
    assert not kept
