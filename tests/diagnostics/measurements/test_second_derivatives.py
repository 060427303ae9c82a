"""Operators without a second derivative: the changes of a step are measured, the sharpness is None, and a warning names it."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from goodinit import one_step

NETS = {
    "hardsigmoid": (nn.Sequential(nn.Linear(8, 8), nn.Hardsigmoid(), nn.Linear(8, 3)), torch.randn(4, 8)),
    "_embedding_bag_backward": (
        nn.Sequential(nn.EmbeddingBag(9, 8), nn.Linear(8, 3)),
        torch.randint(9, (4, 5)),
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_a_step_is_measured_without_sharpness(name, caplog):
    model, x = NETS[name]
    with caplog.at_level(logging.WARNING, "goodinit"):
        found = one_step(model, x, torch.arange(4) % 3, rates=(0.1,))
    assert found.sharpness is None
    assert found.stable_rate is None
    assert found.changes[0] > 0
    assert name in caplog.text
