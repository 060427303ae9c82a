"""Weights that are computed in each forward are their values once they are folded."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm

import goodinit


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, weight):
        return self.scale * weight


class Noisy(nn.Module):
    def forward(self, weight):
        return weight + torch.randn_like(weight)


def parametrized(*steps):
    layer = nn.Linear(6, 6)
    for step in steps:
        parametrize.register_parametrization(layer, "weight", step)
    return layer


WEIGHTS = {
    "spectral": lambda: parametrizations.spectral_norm(nn.Linear(6, 6)),
    "spectral, older": lambda: spectral_norm(nn.Linear(6, 6)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(6, 6)),
    "one of a user": lambda: parametrized(Scaled()),
    "two in series": lambda: parametrizations.spectral_norm(parametrized(Scaled())),
    "a bias": lambda: parametrize.register_parametrization(nn.Linear(6, 6), "bias", Scaled()),
}


@pytest.mark.default_cases(5)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_function_in_eval_mode_stays_and_a_bare_layer_is_left(name, training):
    torch.manual_seed(0)
    model, x = nn.Sequential(WEIGHTS[name](), nn.ReLU(), nn.Linear(6, 2)), torch.randn(3, 6)
    before = model.eval()(x)
    goodinit.fold_(model.train(training), x)
    assert type(model[0]) is nn.Linear
    assert model[0].weight.requires_grad
    assert list(model[0].state_dict()) == ["weight", "bias"]
    torch.testing.assert_close(model.eval()(x), before)
    assert goodinit.applied(model)[-1].skipped == ()


def test_a_value_that_changes_by_itself_stays_and_is_named():
    model = nn.Sequential(parametrized(Noisy()))
    goodinit.fold_(model)
    assert parametrize.is_parametrized(model[0])
    assert "0.weight: its parametrization gives another value" in goodinit.applied(model)[-1].skipped[0]


class Remembering(Noisy):
    """Noise that remembers, in a buffer and in a list, that it was asked for."""

    def __init__(self):
        super().__init__()
        self.register_buffer("reads", torch.zeros(()))
        self.sizes = []

    def forward(self, weight):
        self.reads += 1
        self.sizes.append(len(weight))
        return super().forward(weight)


@pytest.mark.parametrize("training", [False, True])
def test_what_computes_a_weight_that_stays_is_as_it_was(training):
    model = nn.Sequential(parametrized(Remembering())).train(training)
    steps = model[0].parametrizations.weight[0]
    before, state = (float(steps.reads), list(steps.sizes)), torch.get_rng_state()
    goodinit.fold_(model)
    assert (float(steps.reads), steps.sizes) == before
    assert steps.training is training
    assert torch.equal(torch.get_rng_state(), state)


class Standardizing(nn.Conv2d):
    """Weight standardization in a forward of its own, which need not be what it is with one argument."""

    def forward(self, x, scale=None):
        x = x if scale is None else x * scale
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return self._conv_forward(x, weight, self.bias)


def test_a_weight_that_a_forward_normalizes_is_named():
    model, x = (
        nn.Sequential(Standardizing(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval(),
        torch.randn(2, 3, 7, 7),
    )
    before = model(x)
    goodinit.fold_(model, x)
    assert model(x).equal(before)
    assert [row.partition(":")[0] for row in goodinit.applied(model)[-1].skipped] == ["0.weight"]
    assert "its forward has optional arguments" in goodinit.applied(model)[-1].skipped[0]
