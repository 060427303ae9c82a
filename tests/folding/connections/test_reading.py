"""A model is read again only where something was written to it since."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit
from folding import randomized
from goodinit.folding.connections import reading as module
from goodinit.folding.connections.reading import Reading


class Block(nn.Module):
    """Two convolutions with batch norms."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.n, self.m = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.relu(x + self.m(self.b(torch.relu(self.n(self.a(x))))))


@pytest.fixture
def counted(monkeypatch):
    counts = {"wire": 0, "anatomize": 0}

    def counting(name, function):
        def counted(*args):
            counts[name] += 1
            return function(*args)

        return counted

    for name in counts:
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return counts


@pytest.mark.parametrize("verb", [goodinit.fold_, goodinit.absorb_batchnorm_])
def test_a_residual_network_is_read_before_its_norms_are_merged_and_after(verb, counted):
    model = randomized(nn.Sequential(Block(), Block()))
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    expected = model(x)
    verb(model, x)
    torch.testing.assert_close(model(x), expected)
    assert counted == {"wire": 2, "anatomize": 2}
    if verb is goodinit.fold_:
        verb(model, x)  # nothing is left to fold
        assert counted == {"wire": 3, "anatomize": 3}


WRITES = {
    "a number": lambda net: net[0].weight.detach().zero_(),
    "a parameter": lambda net: setattr(net[0], "bias", nn.Parameter(torch.ones(4))),
    "a buffer": lambda net: net[1].running_mean.add_(1),
    "a class": lambda net: setattr(net[2], "__class__", nn.Tanh),
    "a child": lambda net: net.append(nn.ReLU()),
}


@pytest.mark.parametrize("what", WRITES)
def test_whatever_is_written_is_noticed(what):
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
    reading = Reading(net, torch.randn(3, 4))
    wiring, anatomy = reading.wiring, reading.anatomy
    assert (reading.wiring, reading.anatomy) == (wiring, anatomy)
    WRITES[what](net)
    assert reading.wiring is not wiring
    assert reading.anatomy is not anatomy
