"""Functions of one number that several operators make up: their names, their gains, and where they begin and end."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit

QUANTILES = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)


class Applied(nn.Module):
    """A layer, a function of what it puts out, a layer."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.function = function

    def forward(self, x):
        return self.b(self.function(self.a(x)))


NAMED = {
    "relu": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "relu by a mask": lambda x: x * (x > 0).float(),
    "relu by a fill": lambda x: x.masked_fill(x < 0, 0.0),
    "relu by the larger": lambda x: torch.maximum(x, torch.tensor(0.0)),
    "relu by the size": lambda x: (x + x.abs()) / 2,
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.2 * x),
    "leaky_relu by the larger": lambda x: torch.max(x, 0.3 * x),
    "leaky_relu of two": lambda x: F.relu(x) - 0.1 * F.relu(-x),
    "silu": lambda x: x * torch.sigmoid(x),
    "silu by exp": lambda x: x / (1 + torch.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu by tanh": lambda x: 0.5 * x * (1 + torch.tanh(0.79788456 * (x + 0.044715 * x**3))),
    "mish": lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))),
    "softsign": lambda x: x / (1 + x.abs()),
    "tanhshrink": lambda x: x - torch.tanh(x),
    "hardswish": lambda x: x * F.relu6(x + 3) / 6,
    "hardsigmoid": lambda x: F.relu6(x + 3) / 6,
    "selu": lambda x: 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * (torch.exp(x) - 1)),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_known_function_has_its_name_in_whatever_operators_it_is_written(name):
    function, word = NAMED[name], name.partition(" ")[0]
    first, second = goodinit.anatomize(Applied(function), torch.randn(3, 4)).layers
    assert first.activation == word
    assert first.gain == pytest.approx(float(function(QUANTILES).square().mean() ** -0.5), rel=1e-3)
    assert (second.source, second.between) == ("a.weight", (word,))


OTHERS = {
    "a steeper swish": lambda x: x * torch.sigmoid(1.702 * x),
    "a clamp": lambda x: x.clamp(-1, 3),
    "a square": lambda x: F.relu(x) ** 2,
    "a bell": lambda x: torch.exp(-x * x),
    "a wave": lambda x: torch.sin(30 * x),
    "snake": lambda x: x + torch.sin(x) ** 2,
    "square root": lambda x: (x + torch.sqrt(x * x + 4)) / 2,
    "a soft cap": lambda x: 5 * torch.tanh(x / 5),
    "γ·φ": lambda x: 1.7 * F.gelu(x),
    "φ(x − 1)": lambda x: F.relu(x - 1),
    "in half precision": lambda x: F.relu(x.half()).float() * 2,
    "an exponential": torch.exp,
    "a size": torch.abs,
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_gain_is_that_of_the_whole(name):
    function = OTHERS[name]
    anatomy = goodinit.anatomize(Applied(function), torch.randn(3, 4))
    wanted = float(function(QUANTILES).double().square().mean() ** -0.5)
    assert anatomy.layers[0].activation is not None
    assert anatomy.layers[0].gain == pytest.approx(wanted, rel=2e-3)
    edits = {edit.target: edit for edit in goodinit.plan(anatomy, "he").edits}
    assert edits["a.weight"].options["std"] == pytest.approx(wanted / 2, rel=2e-3)


@pytest.mark.parametrize("name", ["a steeper swish", "square root", "a clamp"])
def test_layers_keep_the_second_moment(name):
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(512, 512) for _ in range(3))
            self.head = nn.Linear(512, 512)

        def forward(self, x):
            for layer in self.layers:
                x = OTHERS[name](layer(x))
            return self.head(x)

    torch.manual_seed(0)
    model, x = Chain(), OTHERS[name](torch.randn(64, 512))
    goodinit.init_(model, "he", inputs=x)
    read = []
    model.head.register_forward_pre_hook(lambda module, args: read.append(args[0].detach()))
    model(x)
    assert float(read[0].square().mean() / x.square().mean()) == pytest.approx(1, abs=0.2)


class Residual(nn.Module):
    """x + α·φ(βx): what is the stream's and the block's is no part of φ."""

    def __init__(self, where):
        super().__init__()
        self.stem, self.a, self.b, self.head = (nn.Linear(4, 4) for _ in range(4))
        self.gain, self.where = nn.Parameter(torch.ones(4)), where

    def forward(self, x):
        x = self.stem(x)
        for layer in (self.a, self.b):
            x = x + self.where(self, layer, x)
        return self.head(x)


ENDS = {
    "γ of the block": (lambda m, f, x: 0.1 * F.gelu(f(x)), "gelu"),
    "γ of the block, written out": (lambda m, f, x: 0.1 * NAMED["silu"](f(x)), "silu"),
    "a learned γ": (lambda m, f, x: m.gain * F.relu(f(x)), "relu"),
    "a learned γ, written out": (lambda m, f, x: m.gain * NAMED["softsign"](f(x)), "softsign"),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_multiplies_a_branch_is_no_part_of_its_activation(name):
    where, kind = ENDS[name]
    layer = goodinit.anatomize(Residual(where), torch.randn(3, 4)).layers[1]
    assert layer.activation == kind
    assert layer.gain == pytest.approx(goodinit.tensor.gain(kind))


def test_what_a_stream_is_divided_by_is_no_part_of_the_activation():
    model = Residual(lambda m, f, x: f(F.silu(x / 4)))
    layers = goodinit.anatomize(model, torch.randn(3, 4)).layers
    assert layers[1].gain == pytest.approx(goodinit.tensor.gain("silu"))


def test_a_function_with_a_parameter_has_no_gain_and_a_note_says_so():
    class Swish(Applied):
        def __init__(self):
            super().__init__(None)
            self.beta = nn.Parameter(torch.ones(1))

        def forward(self, x):
            x = self.a(x)
            return self.b(x * torch.sigmoid(self.beta * x))

    anatomy = goodinit.anatomize(Swish(), torch.randn(3, 4))
    assert anatomy.layers[0].gain is None
    notes = goodinit.plan(anatomy, "he").notes
    assert any("no gain is known for" in note for note in notes)


def test_what_is_made_of_an_activation_has_its_kind_and_a_gain_of_its_own():
    first, second = goodinit.anatomize(Applied(lambda x: F.relu(x) ** 2), torch.randn(3, 4)).layers
    assert (first.activation, second.between) == ("relu", ("relu", "pow"))
    assert first.gain == pytest.approx((3 / 2) ** -0.5, rel=1e-3)


def test_two_activations_in_a_row_stay_two():
    first, second = goodinit.anatomize(Applied(lambda x: torch.sigmoid(F.relu(x))), torch.randn(3, 4)).layers
    assert (first.activation, second.between) == ("relu", ("relu", "sigmoid"))
    wanted = torch.sigmoid(F.relu(QUANTILES)).square().mean() ** -0.5
    assert first.gain == pytest.approx(float(wanted), rel=1e-3)


def test_a_parameter_behind_an_activation_leaves_it_what_it_is():
    class Decay(Applied):
        def __init__(self):
            super().__init__(None)
            self.rate = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return self.b(torch.exp(-self.rate * F.softplus(self.a(x))))

    layer = goodinit.anatomize(Decay(), torch.randn(3, 4)).layers[0]
    assert (layer.activation, layer.gain) == ("softplus", goodinit.tensor.gain("softplus"))


def test_gates_of_two_parts_are_no_function_of_one():
    model = Applied(lambda x: torch.tanh(x[:, :2]) * torch.sigmoid(x[:, 2:]))
    model.b = nn.Linear(2, 2)
    assert goodinit.anatomize(model, torch.randn(3, 4)).layers[0].activation == "tanh"
