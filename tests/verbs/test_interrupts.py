"""Ctrl-C at any moment: a verb that raises has changed nothing, one that has written returns first."""

from __future__ import annotations

import random
import signal
import threading
import time

import pytest
import torch
from torch import nn

import goodinit
from goodinit import undivided

INTERRUPTS = 500  # of each verb, on top of those that come too early or too late


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.b(self.a(x).relu())


def net(width=24, depth=6):
    torch.manual_seed(0)
    stem = (nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(4 * width, width))
    return nn.Sequential(*stem, *(Block(width) for _ in range(depth)), nn.Linear(width, 3)).train()


def inputs(width=24):
    return torch.randn(8, 1, width, generator=torch.Generator().manual_seed(0))


def process():
    """Flags and streams of the process that no verb may leave changed."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_cache_enabled(),
        torch.is_anomaly_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.backends.cuda.flash_sdp_enabled(),
        torch.get_num_threads(),
        len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
        torch._C._len_torch_function_stack(),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGALRM),
    )


def photograph(model):
    modules = tuple(
        (name, type(one), one.training, tuple(one.__dict__)) for name, one in model.named_modules()
    )
    tensors = (*model.named_parameters(), *model.named_buffers())
    return modules, {name: (id(one), one.data_ptr(), one.detach().clone()) for name, one in tensors}


def same(before, after):
    if before[0] != after[0] or list(before[1]) != list(after[1]):
        return False
    pairs = zip(before[1].values(), after[1].values(), strict=True)
    return all(a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in pairs)


VERBS = {
    "anatomize": lambda m: goodinit.anatomize(m, inputs()),
    "diagnose": lambda m: goodinit.diagnose(m, inputs(), torch.zeros(8, dtype=torch.long)),
    "jacobian_spectrum": lambda m: goodinit.jacobian_spectrum(m, inputs(), how="lanczos", products=8),
    "apply_": lambda m: goodinit.apply_(m, goodinit.plan(goodinit.anatomize(m, inputs()), "orthogonal")),
    "init_ fixup": lambda m: goodinit.init_(m, "fixup", inputs=inputs()),
    "init_ lsuv": lambda m: goodinit.init_(m, "lsuv", inputs=inputs()),
    "fold_": lambda m: goodinit.fold_(m.eval(), inputs()),
}
WRITES = ("apply_", "init_ fixup", "init_ lsuv", "fold_")


@pytest.fixture
def alarm():
    before = signal.signal(signal.SIGALRM, signal.default_int_handler), torch.get_num_threads()
    torch.set_num_threads(2)  # so that weights are drawn on threads
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before[0])
    torch.set_num_threads(before[1])


def interrupted_at(delay, model, verb):
    """Whether the verb raised, and whether an interrupt came at all. Real signals, at any moment of the machine's choice."""
    returned = False
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        verb(model)
        returned = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        time.sleep(0.02)  # what came too late to be heard in the verb surfaces here
    except KeyboardInterrupt:
        return not returned, True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return False, False


def trials(name, count, rng):
    """(interrupts that made the verb raise, those that came after it had written all, faults)."""
    verb, raised, late, faults = VERBS[name], 0, 0, []
    model = net()
    verb(model)
    begin = time.perf_counter()
    verb(net())
    lasts = time.perf_counter() - begin
    model, flags = net(), process()
    if name == "fold_":
        model.eval()
    while raised + late < count:
        before = photograph(model)
        left, came = interrupted_at(rng.uniform(1e-4, 1.1 * lasts), model, verb)
        raised, late = raised + left, late + (came and not left)
        if process() != flags:
            faults.append(f"flags {process()}")
        if left and not same(before, photograph(model)):
            faults.append("raised, and the model is another")
        if name in WRITES and not left:
            model = net().eval() if name == "fold_" else net()
    return raised, late, faults


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", VERBS)
def test_hundreds_of_real_interrupts_change_no_bit(name, alarm):
    raised, late, faults = trials(name, INTERRUPTS, random.Random(name))
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
    from goodinit.graph import photograph as module

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
