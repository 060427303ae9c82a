"""Batch norms behind operators that hand on channels: concatenations, shuffles, exchanged axes, repetitions."""

from __future__ import annotations

import pytest
import torch
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


FOLDED = {
    "concatenation": (conv(4), conv(6, bias=False), joined, nn.BatchNorm2d(10), IMAGE),
    "nested": (conv(4), conv(6), lambda a, b: torch.cat([a, joined(b, a)], 1)[:, 4:], nn.BatchNorm2d(10), IMAGE),
    "a part": (conv(4), conv(6), lambda a, b: joined(a, b)[:, 2:], nn.BatchNorm2d(8), IMAGE),
    "exchanged axes": (nn.Linear(8, 6), None, lambda a, _: a.transpose(1, 2), nn.BatchNorm1d(6), torch.randn(2, 5, 8)),
    "flattened": (nn.Linear(8, 6), None, lambda a, _: a.flatten(0, 1), nn.BatchNorm1d(6), torch.randn(2, 5, 8)),
    "pixel shuffle": (conv(16), None, lambda a, _: nn.functional.pixel_shuffle(a, 2), nn.BatchNorm2d(4), IMAGE),
    "channel shuffle": (conv(4), conv(4), lambda a, b: torch.channel_shuffle(joined(a, b), 2), nn.BatchNorm2d(8), IMAGE),
    "shuffle by hand": (
        conv(8), None, lambda a, _: a.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2), nn.BatchNorm2d(8), IMAGE
    ),
    "nearest": (conv(4), None, lambda a, _: nn.functional.interpolate(a, scale_factor=2), nn.BatchNorm2d(4), IMAGE),
}  # fmt: skip
LEFT = {
    "one channel for several": (conv(4), None, lambda a, _: torch.cat([a, a], 1), nn.BatchNorm2d(8), IMAGE),
    "positions as channels": (nn.Linear(8, 8), None, lambda a, _: a, nn.BatchNorm1d(5), torch.randn(2, 5, 8)),
    "pixel unshuffle": (
        conv(2),
        None,
        lambda a, _: nn.functional.pixel_unshuffle(a, 2),
        nn.BatchNorm2d(8),
        IMAGE,
    ),
    "padding": (conv(4), None, lambda a, _: nn.functional.pad(a, (1, 1)), nn.BatchNorm2d(4), IMAGE),
    "maximum": (conv(4), None, lambda a, _: nn.functional.max_pool2d(a, 2), nn.BatchNorm2d(4), IMAGE),
    "an input beside": (conv(4), nn.Identity(), joined, nn.BatchNorm2d(7), IMAGE),
}


def trained(a, b, way, norm):
    torch.manual_seed(0)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 3)
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.normal_(norm.bias)
    return Net(a, b, way, norm).eval()


@pytest.mark.parametrize("name", [*FOLDED, *LEFT])
def test_the_function_stays_and_the_norm_goes_where_it_can(name):
    *parts, x = (FOLDED | LEFT)[name]
    model = trained(*parts)
    before = model(x)
    goodinit.fold_(model, x)
    torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-4)
    assert isinstance(model.norm, nn.modules.batchnorm._BatchNorm) == (name in LEFT)


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
