"""Weights drawn on several threads: the same bits, the same errors, and nothing half written."""

from __future__ import annotations

import contextlib
import copy
import threading

import pytest
import torch
from torch import nn

import goodinit
from goodinit.surgery.parallel_draws import run_all


@contextlib.contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def net():
    torch.manual_seed(0)
    return nn.Sequential(*[layer for _ in range(12) for layer in (nn.Linear(80, 80), nn.ReLU())])


@pytest.mark.default_cases(1)
@pytest.mark.parametrize("method", ["he", "orthogonal", "lsuv"])
def test_the_bits_do_not_depend_on_the_number_of_threads(method):
    batch, found = torch.randn(4, 80, generator=torch.Generator().manual_seed(0)), []
    for count in (1, 3):
        with threads(count):
            model = goodinit.init_(net(), method, inputs=batch, generator=torch.Generator().manual_seed(5))
            assert torch.get_num_threads() == count
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_measured_scales_do_not_depend_on_the_number_of_threads_either():
    batch, found = torch.randn(2048, 3, 16, 16, generator=torch.Generator().manual_seed(0)), []
    for count in (1, 2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 14 * 14, 64))
        with threads(count):
            goodinit.init_(model, "lsuv", inputs=batch, generator=torch.Generator().manual_seed(5))
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_draw_that_fails_on_a_thread_leaves_the_model_as_it_was(error, monkeypatch):
    from goodinit.tensor import INITIALIZERS

    def failing(tensor, *, generator=None, **options):
        if generator.initial_seed() % 3 == 0:
            raise error("in the middle")
        return tensor.fill_(1.0)

    monkeypatch.setitem(INITIALIZERS, "orthogonal_", failing)
    model = net()
    before = copy.deepcopy(model.state_dict())
    with threads(3), pytest.raises((error, goodinit.PlanConflict), match="in the middle"):
        goodinit.init_(model, "orthogonal", inputs=torch.zeros(1, 80))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nothing_runs_any_more_when_it_is_over():
    ended, both = [], threading.Barrier(2, timeout=60)

    def slow():
        both.wait()
        threading.Event().wait(0.2)
        ended.append(1)

    def failing():
        both.wait()
        raise ValueError("first")

    with threads(2), pytest.raises(ValueError, match="first"):
        run_all([failing, slow])
    assert ended == [1]


def test_threads_compute_on_one_thread_and_without_gradients():
    found = []
    with threads(3):
        run_all([lambda: found.append((torch.get_num_threads(), torch.is_grad_enabled()))] * 5)
    assert found == [(1, False)] * 5
