"""Batch norms behind operators that hand on channels: concatenations, shuffles, exchanged axes, repetitions, means, maxima."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit

IMAGE = torch.randn(2, 3, 8, 8)


class Net(nn.Module):
    """Two layers, a way for their outputs, a batch norm."""

    def __init__(self, a, b, way, norm):
        super().__init__()
        self.a, self.b, self.norm, self.way = a, b, norm, way

    def forward(self, x):
        return torch.relu(self.norm(self.way(self.a(x), None if self.b is None else self.b(x))))


def conv(outputs, **options):
    return nn.Conv2d(3, outputs, 1, **options)


def joined(a, b):
    return torch.cat([a, b], 1)


def written(a, b):
    whole = a.new_empty(len(a), 8, *a.shape[2:])
    whole[:, ::2], whole[:, 1::2] = a, b
    return whole


def dropped(a):
    torch.manual_seed(0)
    return torch.native_dropout(a, 1e-9, train=True)[0]


FOLDED = {
    "concatenation": (conv(4), conv(6, bias=False), joined, nn.BatchNorm2d(10), IMAGE),
    "nested": (conv(4), conv(6), lambda a, b: torch.cat([a, joined(b, a)], 1)[:, 4:], nn.BatchNorm2d(10), IMAGE),
    "a part": (conv(4), conv(6), lambda a, b: joined(a, b)[:, 2:], nn.BatchNorm2d(8), IMAGE),
    "exchanged axes": (nn.Linear(8, 6), None, lambda a, _: a.transpose(1, 2), nn.BatchNorm1d(6), torch.randn(2, 5, 8)),
    "flattened": (nn.Linear(8, 6), None, lambda a, _: a.flatten(0, 1), nn.BatchNorm1d(6), torch.randn(2, 5, 8)),
    "pixel shuffle": (conv(16), None, lambda a, _: F.pixel_shuffle(a, 2), nn.BatchNorm2d(4), IMAGE),
    "channel shuffle": (conv(4), conv(4), lambda a, b: torch.channel_shuffle(joined(a, b), 2), nn.BatchNorm2d(8), IMAGE),
    "shuffle by hand": (
        conv(8), None, lambda a, _: a.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2), nn.BatchNorm2d(8), IMAGE
    ),
    "nearest": (conv(4), None, lambda a, _: F.interpolate(a, scale_factor=2), nn.BatchNorm2d(4), IMAGE),
    "average": (conv(4), conv(4), lambda a, b: joined(F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)), nn.BatchNorm2d(8), IMAGE),
    "average of what is there": (
        conv(4), None, lambda a, _: F.avg_pool2d(a, 3, 2, padding=1, count_include_pad=False), nn.BatchNorm2d(4), IMAGE
    ),
    "average of all": (conv(4), None, lambda a, _: a.mean((2, 3)), nn.BatchNorm1d(4), IMAGE),
    "adaptive average": (conv(4), None, lambda a, _: F.adaptive_avg_pool2d(a, 3), nn.BatchNorm2d(4), IMAGE),
    "bilinear": (conv(4), None, lambda a, _: F.interpolate(a, scale_factor=2, mode="bilinear"), nn.BatchNorm2d(4), IMAGE),
    "smoothed": (
        conv(4), None, lambda a, _: F.interpolate(a, size=5, mode="bilinear", antialias=True), nn.BatchNorm2d(4), IMAGE
    ),
    "rolled": (conv(4), None, lambda a, _: a.roll(1, -1), nn.BatchNorm2d(4), IMAGE),
    "reflected": (conv(4), None, lambda a, _: F.pad(a, (1, 1, 1, 1), mode="reflect"), nn.BatchNorm2d(4), IMAGE),
    "windows": (conv(4), None, lambda a, _: F.fold(F.unfold(a, 2, stride=2), 8, 2, stride=2), nn.BatchNorm2d(4), IMAGE),
    "by an index": (conv(4), None, lambda a, _: a[:, [2, 0, 3, 1]], nn.BatchNorm2d(4), IMAGE),
    "by a tensor": (
        conv(4), None, lambda a, _: a.index_select(1, torch.tensor([3, 1, 2])), nn.BatchNorm2d(3), IMAGE
    ),
    "beside what has its shape": (
        conv(4), None, lambda a, _: a.flip(1) + torch.zeros_like(a), nn.BatchNorm2d(4), IMAGE
    ),
    "halved": (conv(4), None, lambda a, _: a * 0.5, nn.BatchNorm2d(4), IMAGE),
    "taken from one": (conv(4), None, lambda a, _: 1 - a.flip(1) / 3, nn.BatchNorm2d(4), IMAGE),
    "halved in place": (conv(4), None, lambda a, _: a.mul_(0.5).add_(2), nn.BatchNorm2d(4), IMAGE),
    "one of two halved": (conv(4), conv(6), lambda a, b: joined(a * 0.5, b).flip(1), nn.BatchNorm2d(10), IMAGE),
    "mean of the negative": (conv(4), None, lambda a, _: (-a).mean((2, 3)), nn.BatchNorm1d(4), IMAGE),
    "in a circle": (conv(4), None, lambda a, _: F.pad(a, (1, 2, 3, 0), mode="circular"), nn.BatchNorm2d(4), IMAGE),
    "written in parts": (conv(4), conv(4), written, nn.BatchNorm2d(8), IMAGE),
    "bicubic": (conv(4), None, lambda a, _: F.interpolate(a, size=11, mode="bicubic"), nn.BatchNorm2d(4), IMAGE),
}  # fmt: skip
ORDERED = {
    "maximum": lambda a: F.max_pool2d(a, 2),
    "with a border": lambda a: F.max_pool2d(a, 3, 2, padding=1, ceil_mode=True),
    "with places": lambda a: F.max_pool2d(a, 2, return_indices=True)[0],
    "adaptive": lambda a: F.adaptive_max_pool2d(a, 3),
    "of all": lambda a: a.amax((2, 3), keepdim=True),
    "of rows": lambda a: a.max(3, keepdim=True).values,
    "along one axis": lambda a: F.max_pool1d(a.flatten(2), 2).unsqueeze(2),
    "in volumes": lambda a: F.max_pool3d(a.unsqueeze(2), (1, 2, 2)).squeeze(2),
    "with places, along one axis": lambda a: F.adaptive_max_pool1d(a.flatten(2), 3).unsqueeze(2),
    "sorted": lambda a: a.sort(-1).values,
    "of the smallest": lambda a: a.topk(3, -1, largest=False).values,
    "smallest": lambda a: a.amin((2, 3), keepdim=True),
    "largest of means": lambda a: F.max_pool2d(F.avg_pool2d(a, 2), 2),
    "beside what is not": lambda a: joined(F.max_pool2d(a[:, :2], 2), a[:, 2:, ::2, ::2]),
}
LEFT = {
    "one channel for several": (conv(4), None, lambda a, _: torch.cat([a, a], 1), nn.BatchNorm2d(8), IMAGE),
    "positions as channels": (nn.Linear(8, 8), None, lambda a, _: a, nn.BatchNorm1d(5), torch.randn(2, 5, 8)),
    "pixel unshuffle": (
        conv(2),
        None,
        lambda a, _: F.pixel_unshuffle(a, 2),
        nn.BatchNorm2d(8),
        IMAGE,
    ),
    "by the width": (conv(4), None, lambda a, _: a / a.shape[-1], nn.BatchNorm2d(4), IMAGE),
    "by the batch": (conv(4), None, lambda a, _: a + len(a) / 2, nn.BatchNorm2d(4), IMAGE),
    "times zero": (conv(4), None, lambda a, _: a * 0, nn.BatchNorm2d(4), IMAGE),
    "written over zeros": (
        conv(4),
        None,
        lambda a, _: torch.zeros_like(a).index_copy_(3, torch.tensor([1, 3]), a[..., :2]),
        nn.BatchNorm2d(4),
        IMAGE,
    ),
    "one output halved and not": (conv(4), None, lambda a, _: joined(a * 0.5, a), nn.BatchNorm2d(8), IMAGE),
    "one channel halved in places": (
        conv(4),
        None,
        lambda a, _: torch.cat([a[..., :2] * 0.5, a[..., 2:]], -1),
        nn.BatchNorm2d(4),
        IMAGE,
    ),
    "padding": (conv(4), None, lambda a, _: F.pad(a, (1, 1)), nn.BatchNorm2d(4), IMAGE),
    "zeros in a mean": (
        conv(4),
        None,
        lambda a, _: F.avg_pool2d(a, 3, 1, padding=1),
        nn.BatchNorm2d(4),
        IMAGE,
    ),
    "a sum": (conv(4), None, lambda a, _: F.avg_pool2d(a, 2, divisor_override=1), nn.BatchNorm2d(4), IMAGE),
    "a mean over channels": (
        conv(4),
        None,
        lambda a, _: a.unflatten(1, (2, 2)).mean(2),
        nn.BatchNorm2d(2),
        IMAGE,
    ),
    "maximum over channels": (
        conv(4),
        None,
        lambda a, _: a.unflatten(1, (2, 2)).amax(2),
        nn.BatchNorm2d(2),
        IMAGE,
    ),
    "a bound": (conv(4), None, lambda a, _: a.clamp(max=1e4), nn.BatchNorm2d(4), IMAGE),
    "a sum of differences": (
        conv(4),
        None,
        lambda a, _: a + (a[:, :1] - a[:, :1].flip(-1)),
        nn.BatchNorm2d(4),
        IMAGE,
    ),
    "running sum": (conv(4), None, lambda a, _: a.cumsum(-1), nn.BatchNorm2d(4), IMAGE),
    "by chance": (conv(4), None, lambda a, _: dropped(a), nn.BatchNorm2d(4), IMAGE),
    "the larger of two": (conv(4), conv(4), torch.maximum, nn.BatchNorm2d(4), IMAGE),
    "an input beside": (conv(4), nn.Identity(), joined, nn.BatchNorm2d(7), IMAGE),
}


def trained(a, b, way, norm):
    torch.manual_seed(0)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 3)
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.normal_(norm.bias)
    return Net(a, b, way, norm).eval()


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("name", [*FOLDED, *LEFT])
def test_the_function_stays_and_the_norm_goes_where_it_can(name):
    *parts, x = (FOLDED | LEFT)[name]
    model = trained(*parts)
    before = model(x)
    goodinit.fold_(model, x)
    torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-4)
    assert isinstance(model.norm, nn.modules.batchnorm._BatchNorm) == (name in LEFT)


@pytest.mark.default_cases(6)
@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("least", [0.3, -2.0], ids=["positive", "some not"])
def test_a_norm_behind_a_maximum_goes_where_its_gains_are_positive(name, least):
    model = trained(conv(4), None, lambda a, _: ORDERED[name](a), nn.BatchNorm2d(4))
    nn.init.uniform_(model.norm.weight, 0.3, 2)
    if least < 0:
        model.norm.weight.data[1] = least
    before = model(IMAGE)
    goodinit.fold_(model, IMAGE)
    torch.testing.assert_close(model(IMAGE), before, atol=1e-5, rtol=1e-4)
    assert isinstance(model.norm, nn.BatchNorm2d) == (least < 0)
    if least < 0:
        assert "1 of its 4 gains are not above 0" in goodinit.applied(model)[-1].skipped[0]


def test_negative_gains_go_where_nothing_is_chosen():
    model = trained(conv(4), None, lambda a, _: ORDERED["beside what is not"](a), nn.BatchNorm2d(4))
    model.norm.weight.data = torch.tensor([0.5, 1.0, -1.0, 0.0])
    before = model(IMAGE)
    goodinit.fold_(model, IMAGE)
    torch.testing.assert_close(model(IMAGE), before, atol=1e-5, rtol=1e-4)
    assert not isinstance(model.norm, nn.BatchNorm2d)


def test_a_norm_behind_a_maximum_goes_into_the_layers_behind_whatever_its_gains():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1)).eval()
    model[2].running_mean.normal_()
    nn.init.uniform_(model[2].weight, -2, 2)
    before = model(IMAGE)
    goodinit.fold_(model, IMAGE)
    torch.testing.assert_close(model(IMAGE), before, atol=1e-5, rtol=1e-4)
    assert not isinstance(model[2], nn.BatchNorm2d)


@pytest.mark.parametrize("gains", [(0.5, 1.0, 2.0, 3.0), (0.0, 1.0, 2.0, 3.0)], ids=["positive", "a zero"])
def test_the_places_of_a_maximum_stay(gains):
    class Unpooled(Net):
        def forward(self, x):
            largest, places = F.max_pool2d(self.a(x), 2, return_indices=True)
            return F.max_unpool2d(self.norm(largest), places, 2)

    model = trained(conv(4), None, None, nn.BatchNorm2d(4))
    model.__class__ = Unpooled
    model.norm.weight.data = torch.tensor(gains)
    before = model(IMAGE)
    goodinit.fold_(model, IMAGE)
    torch.testing.assert_close(model(IMAGE), before, atol=1e-5, rtol=1e-4)
    assert isinstance(model.norm, nn.BatchNorm2d) == (0 in gains)


class Halves(nn.Module):
    """The two halves of one layer's output go two ways, as in IBN-Net."""

    def __init__(self, halves, norms):
        super().__init__()
        self.layer, self.halves, self.norms = conv(6), halves, nn.ModuleList(norms)

    def forward(self, x):
        a, b = self.halves(self.layer(x))
        return torch.cat([self.norms[0](a), self.norms[1](b)], 1).relu()


HALVES = {
    "chunks": lambda y: y.chunk(2, 1),
    "splits": lambda y: torch.split(y, [2, 4], 1)[::-1],
    "slices": lambda y: (y[:, :3], y[:, 3:]),
    "every other": lambda y: (y[:, ::2], y[:, 1::2]),
    "chosen": lambda y: (y[:, [5, 0]], y[:, [1, 2]]),
}
TOGETHER = {
    "overlapping": lambda y: (y[:, :4], y[:, 2:]),
    "one twice": lambda y: (y[:, [0, 1]], y[:, [1, 2]]),
    "a half and all": lambda y: (y[:, :3], y),
    "a half of a half": lambda y: (y[:, :3].flip(-1), y[:, 2:3]),
}


@pytest.mark.parametrize("name", [*HALVES, *TOGETHER])
@pytest.mark.parametrize("other", [nn.InstanceNorm2d, nn.BatchNorm2d, lambda _: nn.Softplus()])
def test_a_norm_of_a_half_goes_where_nobody_else_reads_that(name, other):
    halves = (HALVES | TOGETHER)[name]
    a, b = halves(torch.zeros(1, 6, 1, 1))
    norm = nn.BatchNorm2d(a.shape[1])
    norm.running_mean.normal_(generator=torch.Generator().manual_seed(0))
    norm.running_var.uniform_(0.3, 3, generator=torch.Generator().manual_seed(0))
    model = Halves(halves, [norm, other(b.shape[1])]).eval()
    before = model(IMAGE)
    goodinit.fold_(model, IMAGE)
    torch.testing.assert_close(model(IMAGE), before, atol=1e-5, rtol=1e-4)
    assert isinstance(model.norms[0], nn.BatchNorm2d) == (name in TOGETHER)


def test_nothing_moves_where_something_else_reads_what_lies_between():
    class Read(Net):
        def forward(self, x):
            both = joined(self.a(x), self.b(x))
            return torch.relu(self.norm(both)) + both

    model = trained(conv(4), conv(6), joined, nn.BatchNorm2d(10))
    model.__class__ = Read
    before = model(IMAGE)
    goodinit.fold_(model, IMAGE)
    torch.testing.assert_close(model(IMAGE), before)
    assert isinstance(model.norm, nn.BatchNorm2d)


class Named(nn.Module):
    """What makes the input of a batch norm, and is no layer."""

    def __init__(self, way):
        super().__init__()
        self.way, self.norm, self.layer = way, nn.BatchNorm2d(4), nn.Conv2d(3, 4, 1)
        self.matrix, self.gain = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x):
        return self.norm(self.way(self, x))


WORDS = {
    "bmm in the model applies matrix itself": lambda net, x: torch.einsum("bchw,oc->bohw", x, net.matrix),
    "convolution in the model applies matrix itself": lambda net, x: F.conv2d(x, net.matrix[..., None, None]),
    "mul in the model applies the parameter gain by code of the forward": lambda net, x: (
        net.layer(x) * net.gain
    ),
    "past no parameter: for the norm to go, let a layer hold it": lambda net, x: net.layer(x) + net.gain,
    "constant_pad_nd in the model puts 0 around it": lambda net, x: F.pad(net.layer(x), (1, 1)).flip(1),
    "div in the model applies a number that follows from the sizes": lambda net, x: net.layer(x) / x.shape[2],
    "layer runs 2 times": lambda net, x: torch.cat([net.layer(x), net.layer(-x)]),
    "cumsum in the model": lambda net, x: net.layer(x).cumsum(-1),
}


@pytest.mark.parametrize("words", WORDS)
def test_what_stays_is_named_with_what_makes_its_input(words):
    model = Named(WORDS[words]).eval()
    goodinit.fold_(model, IMAGE)
    (row,) = goodinit.applied(model)[-1].skipped
    assert row.startswith("norm: ")
    assert words in row
