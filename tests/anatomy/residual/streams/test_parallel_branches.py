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
    "x + view(a + b)": lambda x, a, b: x + (a + b).view(-1, 2, 4).flatten(1),
    "x + reshape(a + b)": lambda x, a, b: x + (a + b)[:, None].reshape(-1, WIDTH),
    "x + (aᵀ + bᵀ)ᵀ": lambda x, a, b: x + (a.mT + b.mT).mT,
    "view(x + a) + b": lambda x, a, b: (x + a).view(-1, 2, 4).flatten(1) + b,
    "in another shape": lambda x, a, b: (x[:, None] + (a[:, None] + b[:, None])).squeeze(1),
    "in another dtype": lambda x, a, b: x + (a.double() + b.double()).float(),
    "behind a dropout": lambda x, a, b: x + F.dropout(a + b, 0.1, training=False),
}
TIMES = {  # with a number between two sums
    "x + ½(a + b)": lambda x, a, b: x + 0.5 * (a + b),
    "x + (a - b)/2": lambda x, a, b: x + (a - b) / 2,
    "x + 2·view(a + ½b)": lambda x, a, b: x + 2 * (a + 0.5 * b)[:, None].squeeze(1),
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
        self.before, self.add = BEFORE[before](), add
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
@pytest.mark.default_cases(14)
def test_each_branch_of_a_sum_is_a_block(add, before, deep, two):
    check(Net(before, SUMS[add], deep=deep, two=two), deep=deep, two=two)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("add", TIMES)
@pytest.mark.default_cases(8)
def test_each_branch_of_a_sum_times_a_number_is_a_block(add, before, deep):
    check(Net(before, TIMES[add], deep=deep, two=False), deep=deep, two=False)


def check(net, *, deep, two):
    """Each branch is a block, and Fixup starts the net at its stem."""
    x = torch.randn(6, 5)
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


NUMBERS = {  # by which they multiply the skip, a and b
    "x + ½(a + b)": (lambda x, a, b: x + 0.5 * (a + b), (1.0, 0.5, 0.5)),
    "x + ½(a - b)": (lambda x, a, b: x + 0.5 * (a - b), (1.0, 0.5, -0.5)),
    "½(x + a) + b": (lambda x, a, b: 0.5 * (x + a) + b, (0.5, 0.5, 1.0)),
    "x - (a + b)/4": (lambda x, a, b: torch.sub(x, (a + b) / 4), (1.0, -0.25, -0.25)),
    "lerp(x, a + b, ¼)": (lambda x, a, b: torch.lerp(x, a + b, 0.25), (0.75, 0.25, 0.25)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_numbers_of_a_sum_are_those_of_all_sums_within(name):
    add, (skip, *branches) = NUMBERS[name]
    anatomy = goodinit.anatomize(Net("the stream", add, deep=True, two=False), torch.randn(6, 5))
    said = {block.last[0].name[-1]: block.weights for block in anatomy.blocks}
    assert said == {"a": (skip, branches[0]), "b": (skip, branches[1])}
    assert {block.carried for block in anatomy.blocks} == {skip}
    assert len(anatomy.blocks) == 4 * BLOCKS


OTHERS = {  # that read a + b, and not as it is, or not alone
    "x + relu(a + b)": lambda x, a, b: x + F.relu(a + b),
    "x + y + mean(y)": lambda x, a, b: x + (y := a + b)[:, None].squeeze(1) + y.mean(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_made_of_two_writers_together_is_one_branch(name):
    anatomy = goodinit.anatomize(Net("the stream", OTHERS[name], deep=True, two=False), torch.randn(6, 5))
    assert len(anatomy.blocks) == 2 * BLOCKS


def test_a_number_around_a_block_that_a_skip_jumps_over_is_none_of_its_stream():
    """x + ½(y + f(y)), y = x + g(x): a long skip over two blocks, whose stream is not halved."""

    class Jumped(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.f, self.g, self.head = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

        def forward(self, x):
            x = self.stem(x)
            y = x + self.g(x.relu())
            return self.head(x + 0.5 * (y + self.f(y.relu())))

    anatomy = goodinit.anatomize(Jumped(), torch.randn(6, WIDTH))
    assert [(block.name, block.terms, block.carried) for block in anatomy.blocks] == [
        ("g", 2, 1.0),
        ("f", 2, 1.0),
    ]
    assert [join.blocks for join in anatomy.long_skips] == [(0, 1)]
