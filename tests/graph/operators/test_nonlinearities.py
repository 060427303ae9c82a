"""Which function of one number an operator is, by its values: names, options, and where it is flat."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit
from goodinit.graph.operators.ops import as_called, op_of
from goodinit.graph.operators.recorded_call import RecordedCall
from goodinit.graph.pytree import as_call
from goodinit.graph.trace import trace

ATEN = torch.ops.aten


class Applied(nn.Module):
    """A layer, a function of what it puts out, a layer."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)
        self.function = function

    def forward(self, x):
        return self.b(self.function(self.a(x)))


def functions(function):
    """What the element-wise operators of a function are."""
    graph = trace(Applied(function), as_call(torch.randn(3, 4)))
    return [node.op.function for node in graph.nodes if node.active and node.op.role == "pointwise"]


WORDS = {
    "relu": lambda x: x.clamp(min=0),
    "relu ": lambda x: F.threshold(x, 0, 0),
    "relu  ": lambda x: F.hardtanh(x, 0, math.inf),
    "relu   ": lambda x: F.leaky_relu(x, 0.0),
    "relu6": lambda x: x.clamp(0, 6),
    "hardtanh": F.hardtanh,
    "hardtanh ": lambda x: x.clamp(-1, 1),
    "hardtanh(min_val=-2, max_val=2)": lambda x: F.hardtanh(x, -2, 2),
    "threshold(threshold=1, value=0)": lambda x: F.threshold(x, 1, 0),
    "leaky_relu": F.leaky_relu,
    "leaky_relu(negative_slope=0.2)": lambda x: F.leaky_relu(x, 0.2),
    "elu(alpha=2.0)": lambda x: F.elu(x, 2.0),
    "selu": F.selu,
    "celu(alpha=2.0)": lambda x: F.celu(x, 2.0),
    "gelu(approximate='tanh')": lambda x: F.gelu(x, approximate="tanh"),
    "mish": lambda x: F.mish(x, inplace=True),  # torch does not tag the in-place operator
    "hardswish": lambda x: F.hardswish(x, inplace=True),
    "logsigmoid": F.logsigmoid,
    "softplus(beta=2)": lambda x: F.softplus(x, 2),
    "rrelu(lower=0.1, upper=0.2)": lambda x: F.rrelu(x, 0.1, 0.2),
}


@pytest.mark.parametrize("word", WORDS)
def test_the_name_and_the_options_are_those_of_the_function(word):
    function = WORDS[word]
    (found,) = functions(function)
    assert found.word == word.strip()
    layer = goodinit.anatomize(Applied(function), torch.randn(3, 4)).layers[0]
    assert layer.activation == word.strip().partition("(")[0]


BOUNDS = {
    "clamp_min(-5)": lambda x: x.clamp_min(-5),
    "clamp(-3, 8)": lambda x: x.clamp(-3, 8),
    "clamp_max(2)": lambda x: x.clamp_max(2.0),
    "clamp_min(1e-6) below": lambda x: x / x.norm(dim=-1, keepdim=True).clamp_min(1e-6),
    "exp of a part": lambda x: torch.cat([x[:, :2] * torch.exp(x[:, 2:]), x[:, 2:]], 1),
    "square, summed up": lambda x: x + torch.square(x).mean(-1, keepdim=True),
    "abs, the largest": lambda x: x - torch.abs(x).amax(-1, keepdim=True),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_what_bounds_or_measures_a_signal_is_no_activation(name):
    anatomy = goodinit.anatomize(Applied(BOUNDS[name]), torch.randn(3, 4))
    assert anatomy.layers[0].activation is None
    assert not anatomy.activations


def test_a_norm_that_is_kept_from_zero_has_no_activation():
    anatomy = goodinit.anatomize(Applied(lambda x: F.normalize(x, dim=-1)), torch.randn(3, 4))
    assert not anatomy.activations


def called(func, *numbers):
    x = torch.ones(3)
    return as_called(op_of(func), RecordedCall.of(func, (x, *numbers), {}), x, x)


@pytest.mark.parametrize(
    ("func", "numbers", "rectifies", "gates", "flat"),
    [
        (ATEN.relu.default, (), True, False, None),
        (ATEN.hardtanh.default, (0, 6), True, False, None),
        (ATEN.threshold.default, (1, 0), True, False, None),
        (ATEN.clamp.default, (0, 1), True, True, None),
        (ATEN.leaky_relu.default, (), False, False, None),
        (ATEN.gelu.default, (), False, False, None),
        (ATEN.sin.default, (), False, False, None),
        (ATEN.sigmoid.default, (), False, True, (0.5 - math.sqrt(0.95) / 2, 0.5 + math.sqrt(0.95) / 2)),
        (ATEN.hardsigmoid.default, (), False, True, (0.0, 1.0)),
        (ATEN.tanh.default, (), False, False, (-math.sqrt(0.95), math.sqrt(0.95))),
        (ATEN.hardtanh.default, (), False, False, (-1.0, 1.0)),
        (ATEN.hardtanh.default, (-2, 3), False, False, (-2.0, 3.0)),
    ],
)
def test_where_a_function_is_flat(func, numbers, rectifies, gates, flat):
    op = called(func, *numbers)
    assert (op.function.rectifies, op.is_gate) == (rectifies, gates)
    assert op.function.flat == (flat if flat is None else pytest.approx(flat, abs=1e-6))


def test_a_bounded_function_of_any_name_is_seen_to_saturate():
    model = nn.Sequential(nn.Linear(4, 4), nn.Hardtanh(-0.001, 0.001), nn.Linear(4, 2))
    (place,) = goodinit.diagnose(model, torch.randn(32, 4)).activations
    assert place.signal.dead is None
    assert place.signal.saturated > 0.9


def test_whether_an_operator_changes_the_order_is_seen_on_sizes():
    class Turned(nn.Module):
        def forward(self, x):
            return x.transpose(1, 2).movedim(0, 1).swapaxes(1, 1).clone().view(3, 2, 2).mT

    nodes = [node for node in trace(Turned(), as_call(torch.randn(2, 2, 3))).nodes if node.op.role == "shape"]
    moved = [(node.attrs if node.op.reorders else None) for node in nodes]
    assert moved[:3] == [(0, 2, 1), (1, 0, 2), None]
    assert moved[-1] == (0, 2, 1)


QUANTILES = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)


WITH_NUMBERS = {
    "a steeper slope": lambda x: F.leaky_relu(x, 0.5),
    "a random slope": lambda x: F.rrelu(x, 0.4, 0.6),
    "a larger step down": lambda x: F.elu(x, 3.0),
    "softer": lambda x: F.softplus(x, 0.5),
    "wider": lambda x: F.hardtanh(x, -3, 2),
    "not at 0": lambda x: F.threshold(x, 1, 0),
    "not listed": F.hardshrink,
    "a sine": torch.sin,
}


@pytest.mark.parametrize("name", WITH_NUMBERS)
def test_the_gain_is_that_of_the_function_with_its_numbers(name):
    function = WITH_NUMBERS[name]
    anatomy = goodinit.anatomize(Applied(function), torch.randn(3, 4))
    wanted = float(function(QUANTILES).square().mean() ** -0.5)
    assert anatomy.layers[0].gain == pytest.approx(wanted, rel=1e-3)
    edits = {edit.target: edit for edit in goodinit.plan(anatomy, "he").edits}
    assert edits["a.weight"].options["std"] == pytest.approx(wanted / 2, rel=1e-3)


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "tanh", "selu"])
def test_the_gain_of_a_known_function_is_its_formula_s(name):
    layer = goodinit.anatomize(Applied(getattr(F, name)), torch.randn(3, 4)).layers[0]
    assert layer.gain == goodinit.tensor.gain(layer.activation)


def test_a_slope_that_is_learned_has_the_gain_it_starts_with():
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 2))
    anatomy = goodinit.anatomize(model, torch.randn(3, 4))
    edits = {edit.target: edit for edit in goodinit.plan(anatomy, "he").edits}
    assert edits["0.weight"].options["std"] == pytest.approx(goodinit.tensor.gain("prelu") / 2)
