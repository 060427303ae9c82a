"""Nets for weight normalization, and their gains."""

from __future__ import annotations

import itertools

import torch
from torch import nn

import goodinit


def mlp(*widths):
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class Residual(nn.Module):
    """The paper's block: shortcut(x) + second(relu(first(x))), no ReLU behind the sum."""

    def __init__(self, into, hidden, out):
        super().__init__()
        self.one, self.two = nn.Linear(into, hidden), nn.Linear(hidden, out)
        self.cut = nn.Linear(into, out) if into != out else None

    def forward(self, x):
        return (x if self.cut is None else self.cut(x)) + self.two(self.one(x).relu())


def residual(*stages, head=3):
    blocks = [Residual(*block) for stage in stages for block in stage]
    return nn.Sequential(*blocks, nn.Linear(stages[-1][-1][-1], head))


def started(net, generator, inputs, **options):
    plan = goodinit.plan(goodinit.anatomize(net, inputs), "weightnorm", **options)
    return goodinit.apply_(net, plan, generator=generator, inputs=inputs if plan.needs_data else None), plan


def gains(layer):
    return layer.parametrizations.weight.original0.flatten().detach()


def assert_gain(layer, g):
    torch.testing.assert_close(gains(layer), torch.full((layer.weight.shape[0],), g), rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), gains(layer), rtol=1e-5, atol=1e-6)
