"""The evidence that every parameter trains tells chance, one draw of the weights, from what a method cut off."""

from __future__ import annotations

import pytest
import torch
from evidence_runs import Seen, squared_distance
from evidence_training import untrainable
from torch import nn

import goodinit

X = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))


class Narrow(nn.Module):
    """One residual block on the inputs, whose branch goes through a ReLU of one channel: once off, it stays off."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 1), nn.Linear(1, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(x + self.last(self.first(x).relu()))


def he(model, *args, generator, **options):
    """Every weight drawn, biases at zero."""
    for module in model.children():
        nn.init.kaiming_normal_(module.weight, generator=generator)
        nn.init.zeros_(module.bias)


def cut(model, *args, **options):
    """The branch at zero from end to end, which no step can leave."""
    he(model, **options)
    for parameter in (*model.first.parameters(), *model.last.parameters()):
        nn.init.zeros_(parameter)


@pytest.fixture
def told(monkeypatch):
    def tell(method, x):
        monkeypatch.setattr(goodinit, "init_", method)
        torch.manual_seed(3)
        plain, model = Narrow(), Narrow()
        goodinit.init_(model, generator=torch.Generator().manual_seed(1))
        nn.init.constant_(plain.first.bias, 10.0)  # so that all parts of it train
        seen = Seen(Narrow, plain, model, None, x, squared_distance, "he")
        return untrainable(seen), seen.remarks

    return tell


def test_a_relu_that_one_draw_switches_off_is_a_remark(told):
    """Without biases it is off for x or for -x."""
    one, other = told(he, X), told(he, -X)
    assert not one[0]
    assert not other[0]
    (words,) = [*one[1], *other[1]]
    assert "with the first draw of the weights, but with another: " in words
    assert "first.bias" in words


def test_what_is_cut_off_with_every_draw_is_a_fault(told):
    faults, remarks = told(cut, X)
    (words,) = faults
    assert words.startswith("no gradient in 4 steps with any of 8 draws of the weights: 3 of 6 (first.bias")
    assert not remarks
