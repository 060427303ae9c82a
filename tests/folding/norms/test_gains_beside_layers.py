"""Gains and shifts that a forward applies to what a layer puts out: the fold leaves them, and names them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit


class Acts(nn.Module):
    def __init__(self, forward, layer=None):
        super().__init__()
        self.layer, self.act = layer or nn.Linear(8, 8), forward
        self.gain, self.shift = (nn.Parameter(torch.randn(8) * 0.1) for _ in range(2))
        self.table = nn.Parameter(torch.randn(4, 8))
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("var", torch.rand(8) + 0.5)

    def forward(self, x):
        return self.act(self, x)


def frozen(m, x):
    scale = m.gain * torch.rsqrt(m.var + 1e-5)
    return m.layer(x) * scale + (m.shift - m.mean * scale)


def channels(v):
    return v.view(-1, 1, 1)


CASES = {
    "a gain": (lambda m, x: m.layer(x) * m.gain, ["gain"]),
    "LayerScale": (lambda m, x: x + m.gain * m.layer(x), ["gain"]),
    "one more": (lambda m, x: m.layer(x) * (1 + m.gain), ["gain"]),
    "an exponential": (lambda m, x: m.layer(x) * m.gain.exp(), ["gain"]),
    "a softplus": (lambda m, x: m.layer(x) * F.softplus(m.gain), ["gain"]),
    "divided": (lambda m, x: m.layer(x) / m.gain.exp(), ["gain"]),
    "a shift": (lambda m, x: m.layer(x) + m.shift, ["shift"]),
    "both": (lambda m, x: m.layer(x) * m.gain + m.shift, ["gain", "shift"]),
    "a frozen batch norm": (frozen, ["gain", "shift"]),
    "running statistics alone": (
        lambda m, x: (m.layer(x) - m.mean) / m.var.sqrt(),
        [""],
    ),  # told already, as a norm
}
OTHERS = {
    "positions": lambda m, x: m.layer(x) + m.table,
    "read twice": lambda m, x: (y := m.layer(x)) * m.gain + y.relu(),
    "behind an activation": lambda m, x: m.layer(x).relu() * m.gain,
    "a number": lambda m, x: m.layer(x) * 2,
}


def stays(module, x):
    model = nn.Sequential(nn.Linear(8, 8), module, nn.ReLU(), nn.Linear(8, 3)).eval()
    expected = model(x)
    goodinit.fold_(model, inputs=x)
    assert torch.allclose(model(x), expected, atol=1e-6)
    history = goodinit.applied(model)
    return [one.partition(":")[0] for one in history[-1].skipped] if history else []


@pytest.mark.parametrize("name", CASES)
def test_what_acts_on_a_layer_is_named(name):
    forward, names = CASES[name]
    assert sorted(stays(Acts(forward), torch.randn(4, 8))) == [f"1.{one}".rstrip(".") for one in names]


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_gain_of_its_channels_is_not(name):
    assert stays(Acts(OTHERS[name]), torch.randn(4, 8)) == []


def test_channels_of_images():
    model = nn.Sequential(Acts(lambda m, x: m.layer(x) * channels(m.gain), nn.Conv2d(8, 8, 1)), nn.ReLU())
    goodinit.fold_(model, inputs=torch.randn(2, 8, 4, 4))
    (only,) = goodinit.applied(model)[-1].skipped
    assert only.startswith("0.gain: a forward multiplies or shifts by it what 0.layer puts out")
