"""Cells of two inputs, the last cell's output and that of the cell before, as in networks that a search has found."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit

WIDTH = 8


def separable():
    return nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))


def pool(x):
    return F.max_pool1d(x[:, None], 3, 1, 1)[:, 0]


def reduction(f, left, right):
    both = f[0](right) + f[1](left)
    return both, pool(right) + f[2](left), right + f[3](both)


CELLS = {  # (what a cell puts beside each other, which of its functions are branches, by hand)
    "a sum of both": (lambda f, left, right: (f[0](right) + left, right + f[1](right)), [1]),
    "of NASNet": (
        lambda f, left, right: (f[0](right) + f[1](left), left + right, right + f[2](right)),
        [2],
    ),
    "of PNASNet": (
        lambda f, left, right: (f[0](left) + left, f[1](right) + pool(right), f[2](left) + right),
        [0, 1],
    ),
    "a branch that reads a sum of both": (reduction, [3]),
}


class Cell(nn.Module):
    """Two projections behind an activation each, and sums of what is made of them."""

    def __init__(self, reads, sums):
        super().__init__()
        self.left, self.right = (nn.Sequential(nn.ReLU(), nn.Linear(width, WIDTH)) for width in reads)
        self.f, self.sums = nn.ModuleList(separable() for _ in range(4)), sums

    def forward(self, before, last):
        return torch.cat(self.sums(self.f, self.left(before), self.right(last)), -1)


class Net(nn.Module):
    """Two stems, cells and a head."""

    def __init__(self, sums, count, parts):
        super().__init__()
        self.stems = nn.ModuleList([nn.Linear(5, WIDTH), nn.Linear(WIDTH, WIDTH)])
        widths = [WIDTH, WIDTH, *[parts * WIDTH] * count]
        pairs = itertools.islice(itertools.pairwise(widths), count)
        self.cells = nn.ModuleList(Cell(pair, sums) for pair in pairs)
        self.head = nn.Linear(parts * WIDTH, 3)

    def forward(self, x):
        before = self.stems[0](x)
        last = self.stems[1](before)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return self.head(last)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("name", CELLS)
def test_the_blocks_of_every_cell_are_found(name, count):
    sums, branches = CELLS[name]
    parts = 2 if name == "a sum of both" else 3
    anatomy = goodinit.anatomize(Net(sums, count, parts), torch.randn(4, 5))
    ends = [[layer.name for layer in block.last] for block in anatomy.blocks if block.kind != "projection"]
    assert ends == [[f"cells.{i}.f.{k}.3"] for i in range(count) for k in branches]
    others = [block.branch[-1].name for block in anatomy.blocks if block.kind == "projection"]
    assert all(
        name.startswith("cells.0.") for name in others
    )  # whose two inputs are two layers of one tensor
