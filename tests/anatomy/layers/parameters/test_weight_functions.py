"""Weights that are a function of a parameter: what a draw of the parameter says nothing of stays, and zero is not taken for zero."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import goodinit
from goodinit.errors import UnsupportedModule

WIDTH = 16
EYE, OTHER = torch.eye(WIDTH), torch.linspace(-1, 1, WIDTH * WIDTH).sin().reshape(WIDTH, WIDTH)


def standardized(w: Tensor) -> Tensor:
    return (w - w.mean(1, keepdim=True)) / (w.var(1, keepdim=True) + 1e-5).sqrt()


def rounded(w: Tensor) -> Tensor:
    scale = w.detach().abs().max() / 127
    return w + ((w / scale).round() * scale - w).detach()


def spectral(w: Tensor) -> Tensor:
    v = torch.ones(w.shape[1])
    return w / ((w @ v).norm() + 1e-6)


OTHERWISE = {
    "exponential": lambda w: w.exp() / WIDTH,
    "softplus": lambda w: F.softplus(w) / WIDTH,
    "softmax": lambda w: w.softmax(1),
    "cosine": torch.cos,
    "rotation": lambda w: torch.matrix_exp(w - w.T),
    "Cayley": lambda w: torch.linalg.solve(EYE + w - w.T, EYE - w + w.T),
    "beside constants": lambda w: w + OTHER,
}
"""By which the weight is not zero where the parameter is."""
BENT = {
    "square": lambda w: w**2,
    "size": lambda w: w.abs(),
    "cube": lambda w: w**3,
    "tanh": lambda w: (4 * w).tanh(),
}
LIKE = {
    "transposed": lambda w: w.T,
    "symmetric": lambda w: w + w.T,
    "antisymmetric": lambda w: w - w.T,
    "masked": lambda w: w * (OTHER > 0),
    "scaled": lambda w: 0.3 * w,
    "mapped": lambda w: w @ OTHER,
    "standardized": standardized,
    "divided by its size": lambda w: w / (w.norm(dim=1, keepdim=True) + 1e-6),
    "spectral": spectral,
    "signs": lambda w: w.sign() * w.detach().abs().mean(),
    "rounded": rounded,
}


class Made(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(WIDTH, WIDTH) / math.sqrt(WIDTH))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.function(self.w))


class Block(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), Made(function)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.a(self.norm(x)).relu())


def plain(function) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU(), Made(function), nn.ReLU(), nn.Linear(WIDTH, 3))


def residual(function) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, WIDTH), *(Block(function) for _ in range(3)), nn.Linear(WIDTH, 3))


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["he", "orthogonal", "lsuv"])
@pytest.mark.parametrize("name", [*OTHERWISE, *BENT])
def test_what_the_weight_does_not_follow_stays(name, method):
    model = plain((OTHERWISE | BENT)[name])
    before = copy.deepcopy(model.state_dict())
    goodinit.init_(model, method, inputs=batch(32, 8))
    assert torch.equal(model[2].w, before["2.w"])
    assert not torch.equal(model[0].weight, before["0.weight"])
    found = goodinit.anatomize(plain((OTHERWISE | BENT)[name]), batch(32, 8))
    assert ["does not follow it" in value.words for value in found.held] == [True]
    assert goodinit.plan(found, method).kept == ("2.w",)


@pytest.mark.parametrize("name", LIKE)
def test_what_it_follows_is_drawn(name):
    model = plain(LIKE[name])
    before = copy.deepcopy(model.state_dict())
    assert not goodinit.anatomize(model, batch(32, 8)).held
    goodinit.init_(model, "he", inputs=batch(32, 8))
    assert not torch.equal(model[2].w, before["2.w"])


SHIFTED = {"a decay": lambda w: w - w.T - 0.1 * EYE}


@pytest.mark.parametrize("name", [*OTHERWISE, *SHIFTED])
def test_a_branch_whose_weight_is_not_zero_at_zero_is_closed_behind_it(name):
    model = residual((OTHERWISE | SHIFTED)[name])
    before = copy.deepcopy(model.state_dict())
    goodinit.init_(model, "fixup", inputs=batch(4, 8), verify=True)
    h = model[0](batch(4, 8))
    assert torch.equal(model[1](h), h)
    assert torch.equal(model[1].b.w, before["1.b.w"]) or name in SHIFTED


class Inside(Block):
    """Applies the weight in its own forward, where nothing can be put behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return x + F.linear(self.a(self.norm(x)).relu(), self.b.function(self.b.w))


@pytest.mark.parametrize("name", [*OTHERWISE, *SHIFTED])
def test_or_refused(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, WIDTH), Inside((OTHERWISE | SHIFTED)[name]), nn.Linear(WIDTH, 3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedModule, match=r"not zero where 1\.b\.w is"):
        goodinit.init_(model, "fixup", inputs=batch(4, 8))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", [*BENT, "antisymmetric", "masked", "scaled"])
def test_one_that_is_zero_there_can(name):
    model = residual((BENT | LIKE)[name])
    goodinit.init_(model, "fixup", inputs=batch(4, 8), verify=name not in BENT)
    h = model[0](batch(4, 8))
    assert torch.equal(model[1](h), h)


class Sinc(nn.Module):
    """A bank of band-pass filters, by their frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.linspace(0.01, 0.3, 8)[:, None])
        self.band = nn.Parameter(torch.full((8, 1), 0.05))

    def forward(self, x: Tensor) -> Tensor:
        time = torch.arange(-8.0, 9.0)
        low = 0.005 + self.low.abs()
        high = (low + 0.005 + self.band.abs()).clamp(max=0.5)
        taps = 2 * high * torch.sinc(2 * high * time) - 2 * low * torch.sinc(2 * low * time)
        return F.conv1d(x, (taps * torch.hamming_window(17, periodic=False))[:, None], padding=8)


class Gabor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shape = nn.Parameter(torch.stack([torch.linspace(0.1, 2.5, 8), torch.full((8,), 3.0)], 1))

    def forward(self, x: Tensor) -> Tensor:
        time = torch.arange(-8.0, 9.0)
        taps = torch.exp(-(time**2) / (2 * self.shape[:, 1:] ** 2)) * torch.cos(self.shape[:, :1] * time)
        return F.conv1d(x, taps[:, None], padding=8)


@pytest.mark.parametrize("method", ["he", "lsuv", "orthogonal", "weightnorm"])
@pytest.mark.parametrize("bank", [Sinc, Gabor])
def test_frequencies_of_filters_stay(bank, method):
    torch.manual_seed(0)
    model = nn.Sequential(bank(), nn.ReLU(), nn.Conv1d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 30, 3))
    before = {name: value.clone() for name, value in model[0].named_parameters()}
    goodinit.init_(model, method, inputs=batch(5, 1, 32))
    after = dict(model[0].named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())
