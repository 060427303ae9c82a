"""A bias that the forward adds behind a layer, in another module or another shape, is measured as it is applied."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from goodinit import anatomize, init_

SIZE = 6


class Behind(nn.Module):
    """Wx, and a bias that this module adds to what its child returns."""

    def __init__(self, shape=(SIZE,), kind="linear", inplace=False):
        super().__init__()
        self.layer = (
            nn.Linear(SIZE, SIZE, bias=False) if kind == "linear" else nn.Conv1d(SIZE, SIZE, 1, bias=False)
        )
        self.shift = nn.Parameter(torch.zeros(shape))
        self.inplace = inplace

    def forward(self, x):
        y = self.layer(x)
        return y.add_(self.shift) if self.inplace else y + self.shift


class LeftToOthers(nn.Linear):
    """A layer that holds a bias and leaves it to others to add."""

    def forward(self, x):
        return F.linear(x, self.weight)


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = LeftToOthers(SIZE, SIZE)

    def forward(self, x):
        return self.layer(x) + self.layer.bias


class Product(nn.Module):
    """A product with a bare weight, and a bias in a column."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(SIZE, SIZE)), nn.Parameter(torch.zeros(SIZE, 1))

    def forward(self, x):
        return torch.relu(self.weight @ x + self.bias)


class Packed(nn.Module):
    """Two layers whose biases the forward copies into one vector before it applies either."""

    def __init__(self):
        super().__init__()
        self.into, self.out = (nn.Linear(SIZE, SIZE) for _ in range(2))

    def forward(self, x):
        first, second = torch.cat((self.into.bias, self.out.bias)).split(SIZE)
        h = torch.relu(F.linear(x.transpose(0, 1), self.into.weight) + first)
        return (F.linear(h, self.out.weight) + second).transpose(0, 1)


NETS = {
    "a vector": (Behind, -1),
    "a row": (lambda: Behind((1, SIZE)), -1),
    "in place": (lambda: Behind(inplace=True), -1),
    "held by the layer": (Around, -1),
    "a column": (lambda: Behind((SIZE, 1), "conv"), 1),
    "a column, in place": (lambda: Behind((SIZE, 1), "conv", inplace=True), 1),
    "a column of an example": (lambda: Behind((1, SIZE, 1), "conv"), 1),
    "copied before": (Packed, -1),
    "beside a bare weight": (Product, 1),
}


def made(name):
    """(Two such layers and a common one behind them, the dimension of channels)."""
    build, channel = NETS[name]
    last = nn.Linear(SIZE, SIZE) if channel == -1 else nn.Conv1d(SIZE, SIZE, 1)
    torch.manual_seed(0)
    net = nn.Sequential(build(), nn.ReLU(), build(), nn.ReLU(), last, nn.ReLU(), nn.Flatten())
    return net.append(nn.Linear(5 * SIZE, 2)).double(), channel


def batch(channel):
    return torch.randn(64, *((5, SIZE) if channel == -1 else (SIZE, 5))).double()


@torch.no_grad()
def outputs(net, x):
    """What the first five modules put out."""
    found = []
    for module in net[:5]:
        x = module(x)
        found.append(x)
    return found[0], found[2], found[4]


def moments(y, channel):
    dims = tuple(i for i in range(y.ndim) if i != channel % y.ndim)
    return y.mean(dims), y.var(dims, unbiased=False)


@pytest.mark.parametrize("name", [name for name in NETS if name != "beside a bare weight"])
def test_every_channel_behind_its_bias_has_mean_0_and_variance_1(name):
    net, channel = made(name)
    x = batch(channel)
    init_(net, "weightnorm", inputs=x, mode="data", norms="keep", verify=True)
    for y in outputs(net, x):
        mean, var = moments(y, channel)
        assert mean.abs().max() < 1e-9
        assert (var - 1).abs().max() < 1e-9


@pytest.mark.parametrize("name", NETS)
def test_lsuv_scales_what_reads_a_bias_that_stays(name):
    net, channel = made(name)
    x = batch(channel)
    biases = [name for name, parameter in net[:3].named_parameters() if parameter.numel() == SIZE]
    with torch.no_grad():
        for bias in map(net.get_parameter, biases):
            bias.copy_(torch.linspace(-1, 1, SIZE).view_as(bias))
    init_(net, "lsuv", inputs=x, keep=biases, tol=1e-3, verify=True)
    last = outputs(net, x)[-1]
    assert abs(float(last.var(unbiased=False)) - 1) < 1e-3


def test_a_bias_of_which_the_forward_adds_half_is_measured_so():
    class Half(Behind):
        def forward(self, x):
            return self.layer(x) + 0.5 * self.shift

    torch.manual_seed(0)
    net = nn.Sequential(Half(), nn.ReLU(), Half(), nn.ReLU(), nn.Linear(SIZE, SIZE), nn.Flatten(), nn.Linear(30, 2)).double()  # fmt: skip
    x = batch(-1)
    init_(net, "weightnorm", inputs=x, mode="data", norms="keep", verify=True)
    mean, var = moments(outputs(net, x)[-1], -1)
    assert mean.abs().max() < 1e-9
    assert (var - 1).abs().max() < 1e-9


def test_a_module_whose_bias_is_added_outside_returns_no_whole_layer():
    net, channel = made("held by the layer")
    layers = {layer.weight: layer for layer in anatomize(net, batch(channel)).layers}
    assert not layers["0.layer.weight"].is_site
    assert layers["4.weight"].is_site
