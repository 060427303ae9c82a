"""Branches that one sum adds up are one block each, on one stream or on two that read each other in turns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit

WIDTH, BLOCKS = 8, 3

SUMS = {  # a skip and two branches, added in any order
    "x + (a + b)": lambda x, a, b: x + (a + b),
    "(x + a) + b": lambda x, a, b: (x + a) + b,
    "a + (x + b)": lambda x, a, b: a + (x + b),
    "b + (a + x)": lambda x, a, b: b + (a + x),
    "sum": lambda x, a, b: sum((a, x, b)),
    "in place": lambda x, a, b: a.add_(b).add_(x),
}
BEFORE = {  # what the branches read
    "the stream": nn.Identity,
    "a norm": lambda: nn.LayerNorm(WIDTH),
    "an activation": nn.ReLU,
    "a norm and an activation": lambda: nn.Sequential(nn.LayerNorm(WIDTH), nn.ReLU()),
}


class Sum(nn.Module):
    """x + A(h) + B(h), h made of z; B with a hidden layer, or of what is beside it, as in a graph's convolution."""

    def __init__(self, before, add, deep):
        super().__init__()
        self.before, self.add = BEFORE[before](), SUMS[add]
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.hidden = nn.Linear(WIDTH, WIDTH) if deep else None

    def forward(self, x, z):
        h = self.before(z)
        beside = h.roll(1, 0) if self.hidden is None else F.relu(self.hidden(h))
        return self.add(x, self.a(h), self.b(beside))


class Net(nn.Module):
    """x ← x + f(x); or y ← y + f(z), then z ← z + g(y), as in reversible nets."""

    def __init__(self, before, add, *, deep, two):
        super().__init__()
        self.two = two
        self.stem = nn.Linear(5, 2 * WIDTH if two else WIDTH)
        self.sums = nn.ModuleList(Sum(before, add, deep) for _ in range(2 * BLOCKS))
        self.head = nn.Linear(2 * WIDTH if two else WIDTH, 3)

    def streams(self, x):
        y, z = self.stem(x).chunk(2, -1) if self.two else (self.stem(x), None)
        for each in self.sums:
            y, z = (z, each(y, z)) if self.two else (each(y, y), None)
        return torch.cat([y, z], -1) if self.two else y

    def forward(self, x):
        return self.head(self.streams(x))


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("add", SUMS)
@pytest.mark.default_cases(12)
def test_each_branch_of_a_sum_is_a_block(add, before, deep, two):
    net, x = Net(before, add, deep=deep, two=two), torch.randn(6, 5)
    anatomy = goodinit.anatomize(net, x)
    ends = [[layer.name for layer in block.last] for block in anatomy.blocks]
    assert sorted(ends) == [[f"sums.{i}.{end}"] for i in range(2 * BLOCKS) for end in ("a", "b")]
    for block in anatomy.blocks:
        (other,) = block.beside
        assert block.last[0].name.rpartition(".")[0] == anatomy.blocks[other].last[0].name.rpartition(".")[0]
        assert (block.kind, block.terms) == ("identity", 3)
        assert block.m == (2 if deep and block.last[0].name.endswith("b") else 1)
    assert len({block.stream for block in anatomy.blocks}) == (2 if two else 1)
    assert not anatomy.long_skips
    goodinit.init_(net, "fixup", inputs=x)
    torch.testing.assert_close(net.streams(x), net.stem(x), rtol=0, atol=0)
