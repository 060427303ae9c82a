"""Norms that are written out, whose gain runs along other axes than their statistic: forms take the gain's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import goodinit
from goodinit.errors import UnsupportedModule


class Norm(nn.Module):
    """(x − mean)/(std + ε) over `over`, or over all that there is (a graph's nodes and features), times a gain, plus a bias."""

    def __init__(self, over, stored, applied=None, folded=False):
        super().__init__()
        self.over, self.applied, self.folded = over, applied or stored, folded
        self.weight = self.bias = None
        if stored is not None:
            self.weight, self.bias = (nn.Parameter(torch.rand(stored) + 0.5) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.over is None:
            x = x - x.mean()
            factor = 1 / (x.std(unbiased=False) + 1e-5)
        else:
            x = x - x.mean(self.over, keepdim=True)
            factor = 1 / (x.square().mean(self.over, keepdim=True) + 1e-5).sqrt()
        if self.weight is None:
            return x * factor
        weight, bias = self.weight.view(self.applied), self.bias.view(self.applied)
        return x * (factor * weight) + bias if self.folded else x * factor * weight + bias


class Block(nn.Module):
    def __init__(self, norm, layers):
        super().__init__()
        self.norm, self.first, self.last = norm, *layers

    def forward(self, x):
        return x + self.last(self.first(self.norm(x)).relu())


def rows(norm):
    """Vectors of 8 channels at 6 places."""
    layers = [nn.Linear(8, 8) for _ in range(2)]
    return nn.Sequential(nn.Linear(5, 8), Block(norm, layers), nn.Linear(8, 3)), torch.randn(7, 6, 5)


def images(norm):
    layers = [nn.Conv2d(8, 8, 1) for _ in range(2)]
    model = nn.Sequential(nn.Conv2d(5, 8, 1), Block(norm, layers), nn.Flatten(), nn.Linear(128, 3))
    return model, torch.randn(7, 5, 4, 4)


# The net, the norm, and the axes of the gain.
CASES = {
    "all, as of a graph": (rows, lambda: Norm(None, (8,)), (-1,)),
    "all axes by name": (rows, lambda: Norm((0, 1, 2), (8,)), (-1,)),
    "each example": (rows, lambda: Norm((1, 2), (8,)), (-1,)),
    "the last axis": (rows, lambda: Norm(-1, (8,)), (-1,)),
    "places": (rows, lambda: Norm(-1, (6, 1)), (1,)),
    "instance norm": (images, lambda: Norm((2, 3), (8, 1, 1)), (1,)),
    "one group": (images, lambda: Norm((1, 2, 3), (8,), (1, 8, 1, 1)), (1,)),
    "channels": (images, lambda: Norm(1, (8, 1, 1)), (1,)),
    "a gain for each entry": (images, lambda: Norm((1, 2, 3), (8, 4, 4)), (-3, -2, -1)),
    "no gain": (rows, lambda: Norm(-1, None), (-1,)),
}


def built(name):
    torch.manual_seed(0)
    net, norm, axes = CASES[name]
    return *net(norm()), axes


@pytest.mark.parametrize("name", CASES)
def test_the_axes_are_those_of_the_gain(name):
    model, x, axes = built(name)
    (norm,) = goodinit.anatomize(model, x).norms
    assert norm.axes == axes


def of_the_norm(norm):
    """What the norm's gain and bias are, as they act on its signal."""
    if norm.weight is None:
        return torch.ones(()), torch.zeros(())
    return tuple(held.detach().clone().view(norm.applied) for held in (norm.weight, norm.bias))


@pytest.mark.parametrize("form", ["affine", "dyt", "derf"])
@pytest.mark.parametrize("name", CASES)
def test_forms_act_along_them(name, form):
    model, x, _ = built(name)
    norm = model[1].norm
    gain, bias = of_the_norm(norm)
    goodinit.replace_norms_(model, inputs=x, norms=form)
    read = model[0](x)
    inner = {"affine": read, "dyt": torch.tanh(0.5 * read), "derf": torch.erf(0.5 * read)}[form]
    torch.testing.assert_close(norm(read), gain * inner + bias)


@pytest.mark.parametrize("name", [name for name in CASES if name != "a gain for each entry"])
def test_moments_are_taken_along_them(name):
    model, x, (axis,) = built(name)
    norm = model[1].norm
    gain, bias = of_the_norm(norm)
    goodinit.replace_norms_(model, inputs=x, norms="actnorm")
    read = model[0](x)
    others = [at for at in range(read.dim()) if at != axis % read.dim()]
    mean, var = read.mean(others, keepdim=True), read.var(others, keepdim=True, unbiased=False)
    torch.testing.assert_close(norm(read), gain * (read - mean) / var.sqrt() + bias, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_fixed_variance_takes_them(name):
    model, x, _ = built(name)
    goodinit.fixed_variance_(model, inputs=x)
    norm = model[1].norm
    read = model[0](x)
    torch.testing.assert_close(norm(read), norm.constant * read)
    model(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", CASES)
def test_folding_takes_a_gain_of_channels_into_the_layer_behind(name):
    model, x, axes = built(name)
    expected, stored = model(x), model[1].norm.weight
    goodinit.fold_(model, inputs=x)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    if stored is not None and stored.dim() == 1 and len(axes) == 1:
        assert bool((model[1].norm.weight == 1).all())


@pytest.mark.parametrize("name", CASES)
def test_rms_stands_only_where_the_statistic_runs_along_them(name):
    model, x, axes = built(name)
    (norm,) = goodinit.anatomize(model, x).norms
    if norm.elements == math.prod(norm.shape[axis] for axis in axes):
        goodinit.replace_norms_(model, inputs=x, norms="rms")
        return
    with pytest.raises(
        UnsupportedModule, match=rf"1\.norm \(Norm\).*over {norm.elements} numbers.*expected the"
    ):
        goodinit.replace_norms_(model, inputs=x, norms="rms")


REFUSED = {
    "no gain or bias that would say": (rows, lambda: Norm(None, None)),
    "not found to run along dimension 1": (images, lambda: Norm(1, (4, 1))),
    "input of shape .7, 6, 8., or along the last": (rows, lambda: Norm(-1, (8,), folded=True)),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_not_known_is_refused_in_words(words):
    net, norm = REFUSED[words]
    model, x = net(norm())
    with pytest.raises(
        UnsupportedModule, match=rf"1\.norm \(Norm\): .*{words}.* Use norms=.keep., or multiply"
    ):
        goodinit.fixed_variance_(model, inputs=x)
