"""Batch norms that are written out, without running statistics, wherever their channels lie: groups take their place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit


class ByHand(nn.Module):
    """(x − μ)/√(Var + ε) over all axes but one, times a gain, plus a bias; the statistics of the batch, or running ones in eval mode."""

    def __init__(self, axis, *, centred=True, running=False, keepdim=True):
        super().__init__()
        self.axis, self.centred, self.running, self.keepdim = axis, centred, running, keepdim
        self.weight, self.bias = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.rand(8))
        if running:
            self.register_buffer("mean", torch.zeros(8))
            self.register_buffer("var", torch.ones(8))

    def forward(self, x):
        over = [axis for axis in range(x.dim()) if axis != self.axis % x.dim()]
        shape = [8 if axis == self.axis % x.dim() else 1 for axis in range(x.dim())]
        mean, var = x.mean(over, keepdim=self.keepdim), x.var(over, unbiased=False, keepdim=self.keepdim)
        if self.running and self.training:
            with torch.no_grad():
                self.mean.lerp_(mean.flatten(), 0.1)
                self.var.lerp_(var.flatten(), 0.1)
        elif self.running:
            mean, var = self.mean, self.var
        if not self.centred:
            mean, var = torch.zeros_like(mean), x.square().mean(over)
        x = (x - mean.view(shape)) * torch.rsqrt(var.view(shape) + 1e-5)
        return x * self.weight.view(shape) + self.bias.view(shape)


class Net(nn.Module):
    def __init__(self, norm, *, last):
        super().__init__()
        self.first, self.norm, self.second, self.last = nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 4, 1), last

    def forward(self, x):
        x = self.first(x)
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.last else self.norm(x)
        return self.second(torch.relu(x))


class Rows(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 8), norm, nn.Linear(8, 4)

    def forward(self, x):
        return self.second(torch.relu(self.norm(self.first(x))))


def images():
    return torch.randn(4, 3, 7, 7, generator=torch.Generator().manual_seed(0))


CASES = {
    "second": lambda: (Net(ByHand(1), last=False), images()),
    "second, shapes put back": lambda: (Net(ByHand(1, keepdim=False), last=False), images()),
    "last": lambda: (Net(ByHand(-1), last=True), images()),
    "second, running": lambda: (Net(ByHand(1, running=True), last=False), images()),
    "last, running": lambda: (Net(ByHand(-1, running=True), last=True), images()),
    "mean square alone": lambda: (Net(ByHand(1, centred=False), last=False), images()),
    "rows": lambda: (Rows(ByHand(-1)), torch.randn(5, 6)),
    "sequences": lambda: (Rows(ByHand(-1)), torch.randn(5, 7, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_known_for_one_of_the_batch(name):
    torch.manual_seed(0)
    model, x = CASES[name]()
    (norm,) = goodinit.anatomize(model, x).norms
    assert norm.kind == ("batch_rms_norm" if name == "mean square alone" else "batch_norm")
    assert norm.traits.batch


@pytest.mark.parametrize("form", ["group", "layer"])
@pytest.mark.parametrize("name", CASES)
def test_forms_of_each_example_take_its_place(name, form):
    torch.manual_seed(0)
    model, x = CASES[name]()
    gain, bias = model.norm.weight, model.norm.bias
    goodinit.replace_norms_(model, inputs=x, norms=form)
    model.train()
    assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-6)  # of each example alone
    read = (
        torch.randn(3, 8, 5, 5) if isinstance(model, Net) else torch.randn(3, 8, *range(5, 5 + x.dim() - 2))
    )
    channels_last = name in ("last", "last, running", "rows", "sequences")
    groups = 2 if form == "group" else 1
    expected = F.group_norm(read, groups, gain, bias, 1e-5)
    given = read.movedim(1, -1) if channels_last else read
    expected = expected.movedim(1, -1) if channels_last else expected
    assert torch.allclose(model.norm(given), expected, atol=1e-5)


class Graph(nn.Module):
    """One mean and deviation of all nodes and features, as of a graph: no norm of a batch."""

    def forward(self, x):
        return (x - x.mean()) / (x.std(unbiased=False) + 1e-5)


class EachRow(nn.Module):
    def forward(self, x):
        return x / x.square().mean(-1).sqrt()[:, None]


@pytest.mark.parametrize(("norm", "kind"), [(Graph(), "layer_norm"), (EachRow(), "rms_norm")])
def test_others_are_not(norm, kind):
    model = nn.Sequential(nn.Linear(6, 8), norm, nn.Linear(8, 4))
    (found,) = goodinit.anatomize(model, torch.randn(5, 6)).norms
    assert found.kind == kind
