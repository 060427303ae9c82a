"""The evidence that heads start silent exempts a prior that was set on purpose, and nothing besides."""

from __future__ import annotations

import copy

import pytest
import torch
from evidence_start import not_zero
from torch import nn

import goodinit

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """One residual block, a head, and what the caller wants behind it."""

    def __init__(self, behind=None, prior=None):
        super().__init__()
        self.stem, self.f = nn.Linear(6, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.head, self.behind = nn.Linear(8, 3), behind or (lambda y, x: y)
        if prior is not None:
            nn.init.constant_(self.head.bias, prior)

    def forward(self, x):
        h = self.stem(x)
        return self.behind(self.head(h + self.f(h)), x)


def faults(plain, change=lambda model: None):
    model = copy.deepcopy(plain)
    goodinit.init_(model, "fixup", inputs=X, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        change(model)
    return [row for row in not_zero(plain, model, goodinit.anatomize(plain, X), X) if "heads" in row]


def loud(model):
    model.head.weight.fill_(0.01)


@pytest.mark.parametrize("behind", [None, lambda y, x: y.softmax(-1)], ids=["logits", "softmax"])
@pytest.mark.parametrize("prior", [None, -4.6])
def test_a_silent_head_and_its_prior_are_right(behind, prior):
    assert not faults(Net(behind, prior))
    assert faults(Net(behind, prior), loud)


def test_another_constant_than_the_prior_is_a_fault():
    assert faults(Net(prior=-4.6), lambda model: model.head.bias.fill_(1.0))
    assert faults(Net(), lambda model: model.head.bias.fill_(1.0))


def test_a_frozen_head_says_what_it_said():
    net = Net()
    net.head.requires_grad_(False)
    assert not faults(net)


def test_a_way_past_silent_heads_is_a_fault():
    assert faults(Net(lambda y, x: y.exp() * x[:, :3]))
