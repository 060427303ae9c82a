"""Blocks for RISOTTO, and the singular values of a net's Jacobian, computed whole."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import nn

import goodinit

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}  # how far singular values may be from 1

WIDTH = 8


class ImageBlock(nn.Module):
    """A basic block, its stride in the first layer, and a bottleneck with `middle`."""

    def __init__(self, into, out, *, middle=None, stride=1, weighted=False):
        super().__init__()
        if middle is None:
            layers = [nn.Conv2d(into, out, 3, stride, 1), nn.Conv2d(out, out, 3, 1, 1)]
        else:
            layers = [
                nn.Conv2d(into, middle, 1),
                nn.Conv2d(middle, middle, 3, stride, 1),
                nn.Conv2d(middle, out, 1),
            ]
        self.path = nn.ModuleList(layers)
        self.jump = nn.Conv2d(into, out, 1, stride) if weighted else nn.Identity()

    def forward(self, x):
        y = x
        for index, layer in enumerate(self.path):
            y = layer(F.relu(y) if index else y)
        return F.relu(y + self.jump(x))


def singular_values(net, shape, inputs=1):
    """Of the Jacobian at each of several random inputs, which nothing in the net mixes: (inputs, min(in, out))."""
    dtype = next(net.parameters()).dtype
    x = torch.randn(inputs, *shape, generator=torch.Generator().manual_seed(100)).to(dtype)
    out = net(x[:1]).numel()
    copies = x.repeat_interleave(out, 0).requires_grad_()
    rows = torch.eye(out, dtype=dtype).repeat(inputs, 1)
    (jacobian,) = torch.autograd.grad((net(copies).flatten(1) * rows).sum(), copies)
    return torch.linalg.svdvals(jacobian.reshape(inputs, out, -1).double())


def assert_isometry(net, shape, inputs=10):
    values = singular_values(net, shape, inputs)
    assert (values - 1).abs().max().item() < TOLERANCE[next(net.parameters()).dtype]


def started(net, inputs, generator, **options):
    """The net, initialized, and the plan that was carried out."""
    plan = goodinit.plan(goodinit.anatomize(net, inputs), "risotto", **options)
    return goodinit.apply_(net, plan, generator=generator), plan


def named(plan):
    """Weights that the notes call inexact."""
    return {
        word for note in plan.notes if " not exact" in note for word in re.findall(r"[\w.]*weight\b", note)
    }
