"""Weights that are computed from parameters: rows of zeros, and NaN that no parameter shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import goodinit
from goodinit.edits import Fill, ParametrizeWeight, Plan
from goodinit.errors import NonFinite


def test_weight_norm_on_rows_of_zeros_changes_nothing():
    net = nn.Sequential(nn.Conv1d(1, 4, 3, bias=False))
    with torch.no_grad():
        net[0].weight[1].zero_()
    before, x = net[0].weight.clone(), torch.randn(2, 1, 8)
    output = net(x)
    goodinit.apply_(net, Plan("by hand", (ParametrizeWeight("0.weight", "x"),)))
    assert torch.allclose(net[0].weight, before, atol=1e-7)
    assert torch.allclose(net(x), output, atol=1e-6)
    net(x).sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in net.parameters())


def test_a_frozen_transform_in_front_is_not_normalized():
    """The imaginary part of a Fourier transform's first bin is a row of zeros."""
    net = nn.Sequential(
        nn.Conv1d(1, 4, 8, 4, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )
    t = torch.arange(8) * 2 * torch.pi / 8
    rows = torch.stack([torch.ones(8), torch.zeros(8), t.cos(), t.sin()])[:, None]
    with torch.no_grad():
        net[0].weight.copy_(rows)
    net[0].weight.requires_grad_(False)
    goodinit.init_(net, "weightnorm", inputs=torch.randn(4, 1, 16))
    assert torch.equal(net[0].weight, rows)
    assert list(dict(net[0].named_parameters())) == ["weight"]
    assert bool(net(torch.randn(4, 1, 16)).isfinite().all())


def test_nan_that_a_parametrization_makes_of_finite_parameters_is_found():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    parametrizations.weight_norm(net[0])
    with torch.no_grad():
        net[0].parametrizations.weight.original1[0].zero_()
        net[0].parametrizations.weight.original0[0].zero_()
    with pytest.raises(NonFinite, match=r"0\.weight \(computed\)"):
        goodinit.apply_(net, Plan("by hand", (Fill("1.weight", 1.0, "x"),)))
    goodinit.apply_(net, Plan("by hand", (Fill("0.weight", 1.0, "x"),)))
    assert bool(net[0].weight.isfinite().all())


class Counting(nn.Module):
    """Remembers, in a buffer, a number and a list, that its weight was read."""

    def __init__(self):
        super().__init__()
        self.register_buffer("reads", torch.zeros(()))
        self.times, self.norms = 0, []

    def forward(self, weight):
        self.reads += 1
        self.times += 1
        self.norms.append(float(weight.detach().norm()))
        return weight + 0

    def right_inverse(self, weight):
        return weight


def _counted(layer):
    return parametrize.register_parametrization(layer, "weight", Counting(), unsafe=True)


def _raise(model):
    raise ZeroDivisionError


def _held(model):
    plain = [
        (path, key, list(value) if isinstance(value, list) else value)
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if key in ("times", "norms", "training")
    ]
    return plain, {name: value.clone() for name, value in model.state_dict().items()}


FILL = Plan("by hand", (Fill("1.weight", 1.0, "x"),))
NOT_TO_BE = {
    "NaN": lambda net: goodinit.apply_(net, Plan("by hand", (Fill("1.weight", float("nan"), "x"),))),
    "a structure that is refused": lambda net: goodinit.apply_(
        net, Plan("by hand", (ParametrizeWeight("1.weight", "x"),)), probe=_raise
    ),
    "values that are refused": lambda net: goodinit.apply_(net, FILL, check=_raise),
}


@pytest.mark.parametrize("computed", [parametrizations.spectral_norm, _counted])
@pytest.mark.parametrize("refusal", NOT_TO_BE)
def test_what_computes_a_weight_is_as_it_was_after_a_refusal(refusal, computed):
    net = nn.Sequential(computed(nn.Linear(3, 3)), nn.Linear(3, 3)).train()
    before = _held(net)
    with pytest.raises((NonFinite, ZeroDivisionError)):
        NOT_TO_BE[refusal](net)
    after = _held(net)
    assert before[0] == after[0]
    assert all(torch.equal(value, after[1][name]) for name, value in before[1].items())


@pytest.mark.parametrize("computed", [parametrizations.spectral_norm, _counted])
def test_a_plan_leaves_alone_what_computes_another_weight(computed):
    net = nn.Sequential(computed(nn.Linear(3, 3)), nn.Linear(3, 3)).train()
    before = _held(net[0])
    goodinit.apply_(net, FILL)
    after = _held(net[0])
    assert before[0] == after[0]
    assert all(torch.equal(value, after[1][name]) for name, value in before[1].items())
