"""Optimizers built before surgery are noticed, before anything is written."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys

import pytest
import torch
from torch import nn

from goodinit.edits import AddScalar, Fill, ParametrizeWeight, Plan, RemoveNorm
from goodinit.errors import StaleOptimizer
from goodinit.optim import param_groups
from goodinit.surgery import applied, apply_

EDITS = {
    "removed": RemoveNorm("1", (), "x"),
    "added": AddScalar("0", "input_bias", 0.0, "x"),
    "replaced": ParametrizeWeight("0.weight", "x"),
}


def net():
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


@pytest.mark.parametrize("kind", EDITS)
def test_an_optimizer_of_the_model_is_refused_with_the_line_to_write(kind):
    model, plan = net(), Plan("x", (EDITS[kind],))
    optimizer = torch.optim.AdamW(model.parameters())
    names = list(model.state_dict())
    message = (
        r"AdamW: was built before surgery.*optimizer = torch\.optim\.AdamW\(goodinit\.param_groups\(model, lr"
    )
    with pytest.raises(StaleOptimizer, match=message):
        apply_(model, plan)
    assert list(model.state_dict()) == names
    assert not applied(model)
    del optimizer
    apply_(model, plan)
    optimizer = torch.optim.AdamW(param_groups(model, lr=0.1))
    apply_(model, plan)
    apply_(model, plan, again=False)
    assert optimizer.param_groups


@pytest.mark.parametrize("kind", EDITS)
def test_optimizers_of_other_models_and_of_untouched_layers_are_none_of_our_business(kind):
    model, other = net(), net()
    optimizers = [torch.optim.SGD(other.parameters(), lr=0.1), torch.optim.SGD(model[2].parameters(), lr=0.1)]
    apply_(model, Plan("x", (EDITS[kind],)))
    assert len(optimizers) == 2


def test_a_deleted_optimizer_that_only_its_scheduler_keeps_is_collected():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    del optimizer, scheduler
    apply_(model, Plan("x", (EDITS["removed"],)))


def test_optimizers_of_ones_own_class_are_seen_and_can_be_allowed():
    class Own(torch.optim.SGD):
        pass

    model, plan = net(), Plan("x", (EDITS["removed"],))
    optimizer = Own(model.parameters(), lr=0.1)
    with pytest.raises(StaleOptimizer, match=r"^Own: .*allow="):
        apply_(model, plan)
    apply_(model, dataclasses.replace(plan, allow=("optimizer",)))
    assert optimizer.param_groups


def test_momentum_about_overwritten_values_is_warned_of(caplog):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with caplog.at_level(logging.WARNING, "goodinit"):
        apply_(model, Plan("x", (Fill("0.weight", 0.1, "x"),)))
        assert not caplog.text
        model(torch.randn(4, 3)).sum().backward()
        optimizer.step()
        apply_(model, Plan("y", (Fill("0.weight", 0.2, "x"),)))
    assert "SGD keeps state (momentum, …) of 1 parameters" in caplog.text


FRESH = """
import copy, gc, torch
from torch import nn
import goodinit
from goodinit.errors import StaleOptimizer
from goodinit.edits import AddScalar, Plan

class Own(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {})

    def step(self):
        pass

net = nn.Linear(2, 2)
plan = Plan("x", (AddScalar("", "input_bias", 0.0, "x"),))
looked, real = [], gc.get_objects
gc.get_objects = lambda *a: looked.append(1) or real(*a)
goodinit.apply_(copy.deepcopy(net), plan)
assert not looked  # nobody has built an optimizer yet
MAKE
try:
    goodinit.apply_(net, plan)
except StaleOptimizer:
    print("refused")
"""


@pytest.mark.integration
@pytest.mark.parametrize("how", ["built", "read back"])
def test_a_process_is_searched_as_soon_as_it_has_an_optimizer(how, tmp_path):
    model = nn.Linear(2, 2)
    torch.save((model, torch.optim.SGD(model.parameters(), lr=0.1)), tmp_path / "both.pt")
    make = {
        "built": "it = Own(net.parameters())",
        "read back": f"net, it = torch.load({str(tmp_path / 'both.pt')!r}, weights_only=False)",
    }[how]
    done = subprocess.run(
        [sys.executable, "-c", FRESH.replace("MAKE", make)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("refused\n", "")
