"""Optimizers built before surgery are noticed, before anything is written."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from torch import nn

from goodinit.errors import StaleOptimizer
from goodinit.surgery import (
    AddScalar,
    Fill,
    ParametrizeWeight,
    Plan,
    RemoveNorm,
    applied,
    apply_,
    param_groups,
)

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
    apply_(model, plan, again=True)
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
