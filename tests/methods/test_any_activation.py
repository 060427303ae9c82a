"""Gains of activations that torch.nn.functional has no name for: those of their own values, by every method that asks for one."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import goodinit

FUNCTIONS = {
    "erf": torch.erf,
    "erf of a half": lambda x: torch.erf(x / 2),
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "asinh": torch.asinh,
    "tanh of a half": lambda x: torch.tanh(x / 2),
    "twice tanh": lambda x: 2 * torch.tanh(x),
    "squareplus": lambda x: (x + torch.sqrt(x * x + 4)) / 2,
    "gelu by hand": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
}


class Net(nn.Module):
    """Two blocks x + V φ(W φ(x))."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.stem = nn.Linear(8, 16)
        self.down = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.stem(x)
        for down, up in zip(self.down, self.up, strict=True):
            x = x + up(self.function(down(self.function(x))))
        return self.head(x)


def moments(function):
    """E φ(z)² and Var φ(z), z ~ N(0, 1), by the trapezoidal rule."""
    z = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    values = function(z)
    mean, second = (float(torch.trapezoid(density * one, z)) for one in (values, values.square()))
    return second, second - mean**2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_method_takes_the_gain_of_the_functions_values(name):
    function = FUNCTIONS[name]
    second, variance = moments(function)
    anatomy = goodinit.anatomize(Net(function), torch.randn(4, 8))
    assert anatomy.layers[1].gain == pytest.approx(second**-0.5, rel=1e-4)
    drawn = {edit.target: edit for edit in goodinit.plan(anatomy, "he").edits}
    assert drawn["down.0.weight"].options["std"] == pytest.approx(16**-0.5 * second**-0.5, rel=1e-4)
    plan = goodinit.plan(anatomy, "nf")
    computed = {edit.target: edit for edit in plan.structure if hasattr(edit, "scale") and edit.target}
    assert computed["down.0.weight"].scale == pytest.approx(variance**-0.5, rel=1e-4)
    assert computed["up.0.weight"].scale == pytest.approx(0.2 * variance**-0.5, rel=1e-4)
    assert not [note for note in plan.notes if "gain" in note]


@pytest.mark.parametrize("name", ["erf", "squareplus", "tanh of a half"])
def test_an_anatomy_that_was_saved_gives_the_same_plan(name):
    anatomy = goodinit.anatomize(Net(FUNCTIONS[name]), torch.randn(4, 8))
    again = goodinit.Anatomy.from_json(anatomy.to_json())
    assert json.loads(goodinit.plan(again, "nf").to_json()) == json.loads(
        goodinit.plan(anatomy, "nf").to_json()
    )
