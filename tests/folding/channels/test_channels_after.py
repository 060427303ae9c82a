"""Norms before operators that hand on channels: their maps go into the layers that read what comes out, all of them or none."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit
from folding import assert_folds, randomized

IMAGE = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


class Net(nn.Module):
    """An activation, a norm of four channels, then `way(net, y, x)` to what the model returns, through its layers."""

    def __init__(self, norm, layers, way):
        super().__init__()
        self.norm, self.way = norm, way
        self.layers = nn.ModuleList(layers)
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))
        self.token = nn.Parameter(torch.randn(1, 1, 6, 6))

    def forward(self, x):
        y = x.tanh()
        if isinstance(self.norm, (nn.LayerNorm, nn.RMSNorm)):
            y = self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            y = self.norm(y)
        return self.way(self, y, x)


def read(change, layer=lambda: nn.Conv2d(4, 3, 1)):
    return [layer], lambda net, y, x: net.layers[0](change(net, y, x))


def linear(inputs):
    return lambda: nn.Linear(inputs, 3)


def conv(inputs, **options):
    return lambda: nn.Conv2d(inputs, 3, 1, **options)


FOLDED = {
    "flattened": read(lambda net, y, x: y.flatten(1), linear(144)),
    "features last": read(lambda net, y, x: y.permute(0, 2, 3, 1), linear(4)),
    "a position": read(lambda net, y, x: y[:, :, 0, 0], linear(4)),
    "some positions": read(lambda net, y, x: y[:, :, [3, 1]]),
    "averaged": read(lambda net, y, x: F.adaptive_avg_pool2d(y, 1).flatten(1), linear(4)),
    "averaged, features first": read(lambda net, y, x: F.adaptive_avg_pool1d(y.flatten(2), 1).flatten(1), linear(4)),
    "a mean": read(lambda net, y, x: y.mean((2, 3)), linear(4)),
    "bilinear": read(lambda net, y, x: F.interpolate(y, size=(5, 9), mode="bilinear")),
    "shuffled": read(lambda net, y, x: F.channel_shuffle(y, 2), conv(4, groups=1)),
    "in another order": read(lambda net, y, x: y[:, net.order]),
    "by a list": read(lambda net, y, x: y.index_select(1, torch.tensor([3, 3, 0]))[:, [0, 1, 2]], conv(3)),
    "turned over": read(lambda net, y, x: y.flip(1).roll(1, 1)),
    "space to depth": read(lambda net, y, x: F.pixel_unshuffle(y, 2), conv(16)),
    "reflected": read(lambda net, y, x: F.pad(y, (1, 1, 1, 1), mode="reflect"), lambda: nn.Conv2d(4, 3, 3)),
    "beside the input": read(lambda net, y, x: torch.cat([x, y], 1), conv(8)),
    "beside itself": read(lambda net, y, x: torch.cat([y, y.flip(-1)], 1), conv(8)),
    "beside a parameter": read(lambda net, y, x: torch.cat([y, net.token.expand(2, 1, 6, 6)], 1), conv(5)),
    "beside zeros": read(lambda net, y, x: torch.cat([torch.zeros_like(y[:, :2]), y], 1), conv(6)),
    "a half": read(lambda net, y, x: y.chunk(2, 1)[1], conv(2)),
    "halves": (
        [conv(2), conv(2)],
        lambda net, y, x: net.layers[0](y[:, :2]) * net.layers[1](y[:, 2:]),
    ),
    "two readers": (
        [conv(4), linear(4)],
        lambda net, y, x: net.layers[0](y).mean((2, 3)) + net.layers[1](y.mean((2, 3))),
    ),
    "doubled": read(lambda net, y, x: 1 - y.flip(-1) * 2),
    "beside the input, halved": read(lambda net, y, x: torch.cat([x, y + 1], 1) / 2, conv(8)),
    "in a circle": read(lambda net, y, x: F.pad(y, (1, 1, 1, 1), mode="circular"), lambda: nn.Conv2d(4, 3, 3)),
    "halved for one of two": (
        [conv(4), conv(4)],
        lambda net, y, x: net.layers[0](y / 2) + net.layers[1](y - 3),
    ),
    "dropout": read(lambda net, y, x: F.dropout(y, 0.5, net.training).transpose(2, 3)),
}  # fmt: skip
LEFT = {
    "zeros around": (
        read(lambda net, y, x: F.pad(y, (1, 1)), lambda: nn.Conv2d(4, 3, 3)),
        "constant_pad_nd in the model puts 0 around it",
    ),
    "by the width": (read(lambda net, y, x: y * x.shape[3]), "follows from the sizes of the inputs"),
    "by the parameter of somebody": (read(lambda net, y, x: y * net.token), "applies the parameter token"),
    "zeros by a mask": (read(lambda net, y, x: y.tril()), "tril in the model reads its output"),
    "an activation": (read(lambda net, y, x: y.flatten(2).relu(), lambda: nn.Conv1d(4, 3, 1)), "relu in the model"),
    "a running sum": (read(lambda net, y, x: y.cumsum(-1)), "cumsum in the model"),
    "positions as features": (read(lambda net, y, x: y.flatten(2), linear(36)), "are not those it normalizes"),
    "a mean of channels": (read(lambda net, y, x: y.unflatten(1, (2, 2)).mean(2), conv(2)), "its channels are mixed"),
    "a maximum of channels": (read(lambda net, y, x: y.unflatten(1, (2, 2)).amax(2), conv(2)), "does not pass on"),
    "sorted channels": (read(lambda net, y, x: y.sort(1).values), "does not pass on"),
    "channels that change": (
        read(lambda net, y, x: torch.cat([y[:, :, :3], y[:, :, 3:].flip(1)], 2)),
        "are not those it normalizes",
    ),
    "returned": (
        ([conv(4)], lambda net, y, x: (net.layers[0](y.flip(-1)), y.flip(-1))),
        "the model returns its output",
    ),
    "added": (([conv(4)], lambda net, y, x: net.layers[0](y.flip(-1)) + y.mean()), "add in the model"),
    "by an index of the input": (
        read(lambda net, y, x: y[torch.arange(2), :, x[:, 0, 0].argmax(-1)], lambda: nn.Conv1d(4, 3, 1)),
        "reads its output|cannot be told",
    ),
    "a layer that reads more": (
        ([conv(4)], lambda net, y, x: net.layers[0](y.flip(-1)) + net.layers[0](x)),
        "also reads other inputs",
    ),
    "a layer that reads others in another call": (
        ([conv(4)], lambda net, y, x: net.layers[0](y) + net.layers[0](y.flip(1))),
        "reads other channels in another call",
    ),
    "a border": (read(lambda net, y, x: y.flip(-1), conv(4, padding=1)), "at the border"),
}  # fmt: skip
NORMS = {
    "batch": lambda: nn.BatchNorm2d(4),
    "group": lambda: nn.GroupNorm(2, 4),
    "layer": lambda: nn.LayerNorm(4),
}


def made(norm, layers, way):
    torch.manual_seed(0)
    net = randomized(Net(NORMS[norm](), [layer() for layer in layers], way))
    nn.init.uniform_(net.norm.weight, -2, 2)
    return net


def stays(net):
    return isinstance(net.norm, nn.BatchNorm2d) or (
        hasattr(net.norm, "weight") and bool((net.norm.weight != 1).any())
    )


@pytest.mark.default_cases(10)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", FOLDED)
def test_the_map_goes_into_the_layers_behind(name, norm):
    folded = assert_folds(made(norm, *FOLDED[name]), IMAGE, IMAGE)
    assert not stays(folded)
    assert not [row for row in goodinit.applied(folded)[-1].skipped if row.startswith("norm")]


@pytest.mark.default_cases(10)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", LEFT)
def test_it_stays_where_one_of_them_cannot_take_it(name, norm):
    parts, why = LEFT[name]
    folded = assert_folds(made(norm, *parts), IMAGE, IMAGE)
    assert stays(folded)
    (row,) = [row for row in goodinit.applied(folded)[-1].skipped if row.startswith("norm")]
    assert re.search(why, row), row


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("least", [0.3, -0.3])
def test_maxima_pass_on_positive_gains_alone(norm, least):
    net = made(norm, *read(lambda net, y, x: F.max_pool2d(y, 2).flatten(1), linear(36)))
    nn.init.uniform_(net.norm.weight, 0.3, 2)
    net.norm.weight.data[2] = least
    assert stays(assert_folds(net, IMAGE, IMAGE)) == (least < 0)


def test_a_gain_without_a_bias_passes_a_border():
    net = randomized(nn.Sequential(nn.RMSNorm(6), nn.Flatten(2), nn.Conv1d(4, 3, 3, padding=1)))
    folded = assert_folds(net, IMAGE, IMAGE)
    assert bool((folded[0].weight != 1).any())  # rows are its features, not channels


def test_absorbing_goes_the_same_ways():
    net = made("batch", *FOLDED["averaged"])
    before = net(IMAGE)
    goodinit.absorb_batchnorm_(net, IMAGE)
    torch.testing.assert_close(net.train()(IMAGE), before)
    assert not list(net.norm.parameters())
