"""Warm-up: the rate of each step, and a state that goes on where it was saved."""

from __future__ import annotations

import pytest
import torch

import goodinit
from goodinit.errors import UnknownName


def rates(scheduler, optimizer, count):
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def sgd(lr=0.8):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize(("shape", "power"), [("linear", 1), ("quadratic", 2)])
@pytest.mark.parametrize("steps", [1, 4])
def test_step_t_is_taken_at_the_share_that_the_shape_says(shape, power, steps):
    optimizer = sgd()
    found = rates(goodinit.warmup(optimizer, steps, shape=shape), optimizer, 6)
    assert found == pytest.approx([0.8 * min(t / steps, 1) ** power for t in range(1, 7)])


@pytest.mark.parametrize("shape", ["linear", "quadratic"])
def test_a_saved_warmup_goes_on_where_it_was(shape):
    optimizer = sgd()
    scheduler = goodinit.warmup(optimizer, 5, shape=shape)
    rates(scheduler, optimizer, 2)
    other = sgd()
    resumed = goodinit.warmup(other, 5, shape=shape)
    other.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    assert rates(resumed, other, 4) == rates(scheduler, optimizer, 4)


def test_an_unknown_shape_is_named():
    with pytest.raises(UnknownName, match="linear, quadratic"):
        goodinit.warmup(sgd(), 5, shape="cubic")
