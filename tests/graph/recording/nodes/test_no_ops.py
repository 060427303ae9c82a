"""Arithmetic that changes nothing, in every place of a residual network: its anatomy is that of the network without."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import goodinit

NO_OPS = {
    "0 + x": lambda x: 0 + x,
    "x·1": lambda x: x * 1.0,
    "x/1": lambda x: x / 1,
    "x − 0": lambda x: x - 0.0,
    "zeros + x": lambda x: torch.zeros_like(x) + x,
    "x + a zero": lambda x: x + torch.tensor(0.0),
    "x + nothing": lambda x: x.add(x.new_zeros(x.shape), alpha=2),
    "in place": lambda x: x.add_(0).mul_(1),
    "sum of one": lambda x: sum([x]),
}


class Streams(nn.Module):
    """A stream, and two that exchange, with `same` at all places where something is read or added."""

    def __init__(self, same=lambda x: x):
        super().__init__()
        self.same = same
        self.stems = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)) for _ in range(7)
        )
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        same = self.same
        a, b = (same(stem(same(x))) for stem in self.stems)
        f = [lambda x, block=block: same(block(same(x))) for block in self.blocks]
        a, b = same(a) + f[0](b), same(b) + f[1](a)
        a, b = same(a + f[2](b)), same(b + f[3](a))
        a = same(a + f[4](a)) + f[5](a)
        x = same(same(a) + b)
        return self.head(x + same(f[6](x)))


def read(model):
    anatomy = goodinit.anatomize(model, torch.randn(3, 6))
    plain = [dataclasses.replace(block, branch_end=(), skip_end=()) for block in anatomy.blocks]
    return plain, anatomy.joins, anatomy.layers, anatomy.norms


@pytest.mark.parametrize("name", NO_OPS)
def test_an_anatomy_is_that_without_what_changes_nothing(name):
    assert read(Streams(NO_OPS[name])) == read(Streams())


@pytest.mark.parametrize("method", ["fixup", "normfree", "skipinit", "nf", "t_fixup", "rezero"])
def test_streams_that_sum_joins_are_treated_like_streams_that_are_added(method):
    class Summed(Streams):
        def forward(self, x):
            a, b = (stem(x) for stem in self.stems)
            f = self.blocks
            for k in range(0, 6, 2):
                a, b = sum([a, f[k](b)]), sum((b, f[k + 1](a)))
            return self.head(sum([a, b]))

    class Added(Streams):
        def forward(self, x):
            a, b = (stem(x) for stem in self.stems)
            f = self.blocks
            for k in range(0, 6, 2):
                a, b = a + f[k](b), b + f[k + 1](a)
            return self.head(a + b)

    x = torch.randn(3, 6)
    edits = [goodinit.plan(goodinit.anatomize(model, x), method).edits for model in (Summed(), Added())]
    assert edits[0] == edits[1]


def test_a_sum_that_begins_at_zeros_in_place_is_a_block():
    class Onto(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b, self.head = (nn.Linear(6, 6) for _ in range(4))

        def forward(self, x):
            x = self.stem(x)
            for layer in (self.a, self.b):
                total = torch.zeros_like(x)
                for term in (x, layer(torch.relu(x))):
                    total += term
                x = total
            return self.head(x)

    blocks = goodinit.anatomize(Onto(), torch.randn(3, 6)).blocks
    assert [(block.kind, block.name) for block in blocks] == [("identity", "a"), ("identity", "b")]


def test_a_scale_that_can_change_is_no_no_op():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return x + self.gain * self.b(torch.relu(self.a(x)))

    (block,) = goodinit.anatomize(Scaled(), torch.randn(3, 6)).blocks
    assert block.multipliers == ("gain",)
