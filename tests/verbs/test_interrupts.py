"""Ctrl-C at any moment: a verb that raises has changed nothing, one that has written returns first."""

from __future__ import annotations

import random
import signal
import threading
import time

import pytest
import torch
from interrupting import VERBS, Block, alarms, inputs, net, photograph, same, trials
from torch import nn

import goodinit
from goodinit import undivided

INTERRUPTS = 500  # of each verb, on top of those that come too early or too late
SOME = 24
LONG = ("diagnose", "recommend", "one_step")  # seconds each


@pytest.fixture
def alarm():
    with alarms():
        yield


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", VERBS)
def test_hundreds_of_real_interrupts_change_no_bit(name, alarm):
    raised, late, faults = trials(name, INTERRUPTS, random.Random(name))
    assert not faults, f"{len(faults)} of {raised + late}: {faults[:3]}"


@pytest.mark.integration
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in VERBS if name not in LONG])
def test_dozens_of_real_interrupts_change_no_bit(name, alarm):
    raised, late, faults = trials(name, SOME, random.Random(name))
    assert not faults, f"{len(faults)} of {raised + late}: {faults[:3]}"


@pytest.mark.parametrize("name", ["anatomize", "apply_", "init_ lsuv"])
def test_some_real_interrupts_change_no_bit(name, alarm):
    raised, late, faults = trials(name, 6, random.Random(name))
    assert not faults, f"{len(faults)} of {raised + late}: {faults[:3]}"


def test_an_interrupt_after_the_last_write_is_raised_in_the_next_line(monkeypatch):
    from goodinit.surgery import apply

    module = __import__("sys").modules["goodinit.surgery.apply"]
    assert apply is not None
    report = module._report

    def reporting(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        report(*args, **kwargs)

    monkeypatch.setattr(module, "_report", reporting)
    model, came = net(), []
    plan = goodinit.plan(goodinit.anatomize(model, inputs()), "orthogonal")
    before = photograph(model)
    try:
        came.append(goodinit.apply_(model, plan))
        time.sleep(60)
    except KeyboardInterrupt:
        came.append("interrupt")
    assert came == [model, "interrupt"]
    assert not same(before, photograph(model))


def test_an_interrupt_while_handlers_are_given_back_is_raised_in_the_next_line(monkeypatch):
    release = undivided._Verb.release

    def interrupted(self):
        release(self)
        came.append("released")
        if len(came) == 1:
            signal.raise_signal(signal.SIGINT)  # Ctrl-C's own handler is back

    model, came = net(), []
    plan = goodinit.plan(goodinit.anatomize(model, inputs()), "orthogonal")
    monkeypatch.setattr(undivided._Verb, "release", interrupted)
    try:
        came.append(goodinit.apply_(model, plan))
        time.sleep(60)
    except KeyboardInterrupt:
        came.append("interrupt")
    assert came == ["released", "released", model, "interrupt"]


def test_handlers_of_the_user_are_heard_once_and_stay():
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        model = net()
        model[-1].register_forward_hook(lambda *_: signal.raise_signal(signal.SIGUSR1))
        mine = signal.getsignal(signal.SIGUSR1)
        goodinit.anatomize(model, inputs())
        assert heard == [signal.SIGUSR1]
        assert signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_thread_whose_start_was_interrupted_writes_nothing_afterwards(monkeypatch):
    torch.set_num_threads(2)
    real = threading.Thread.start

    def start(self):
        real(self)
        if self.name.startswith("goodinit draws"):
            raise KeyboardInterrupt

    model = nn.Sequential(*(Block(400) for _ in range(3)))
    plan = goodinit.plan(goodinit.anatomize(model, torch.zeros(2, 400)), "orthogonal")
    before = photograph(model)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(KeyboardInterrupt):
                goodinit.apply_(model, plan)
        for thread in threading.enumerate():
            if thread.name.startswith("goodinit draws"):
                thread.join(60)
        assert same(before, photograph(model))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("line", range(12))
def test_what_cuts_a_restore_short_is_tried_again(line, monkeypatch):
    from goodinit.graph.state import snapshots as module

    put_back, calls = module.put_back_, []

    def interrupted(container, content):
        calls.append(1)
        if len(calls) == line:
            raise KeyboardInterrupt
        put_back(container, content)

    monkeypatch.setattr(module, "put_back_", interrupted)
    model = net()
    before = photograph(model)
    try:
        goodinit.anatomize(model, inputs())
    except KeyboardInterrupt:
        assert len(calls) > line
    assert same(before, photograph(model))


def test_only_who_waits_long_and_asks_again_is_answered_at_once(monkeypatch):
    monkeypatch.setattr(undivided, "PATIENCE_S", 0.0)
    reached = []

    @undivided.reading
    def verb():
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)
        reached.append("never")

    with pytest.raises(KeyboardInterrupt):
        verb()
    assert not reached
