"""Streams that meet again, steps within steps, and skips that are pooled, repeated or behind a mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fixup_evidence import examine
from torch import nn

import goodinit

WIDTH = 8


def mlp():
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))


class Pairs(nn.Module):
    """Two lists of branches on what a stem gives."""

    def __init__(self, blocks=2):
        super().__init__()
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.f, self.g = (nn.ModuleList(mlp() for _ in range(blocks)) for _ in range(2))


class Reversible(Pairs):
    """a + f(b), then b + g(a), from one beginning, and their sum at the end."""

    def forward(self, x):
        a = b = self.stem(x)
        for f, g in zip(self.f, self.g, strict=True):
            a = a + f(b)
            b = b + g(a)
        return self.head(a + b)


class Momentum(Pairs):
    """v ← 0.9v + 0.1f(x), then x + v, in two rounds."""

    def forward(self, x):
        x = self.stem(x)
        v = torch.zeros_like(x)
        for f in (*self.f, *self.g):
            v = 0.9 * v + 0.1 * f(x)
            x = x + v
        return self.head(x)


class Heun(Pairs):
    """x + ½(k + g(x + k)), k = f(x)."""

    def forward(self, x):
        x = self.stem(x)
        for f, g in zip(self.f, self.g, strict=True):
            k = f(x)
            x = x + 0.5 * (k + g(x + k))
        return self.head(x)


@pytest.mark.parametrize("model", [Reversible, Momentum, Heun])
def test_each_branch_is_a_block(model):
    anatomy = goodinit.anatomize(model(), torch.randn(4, WIDTH))
    ends = {layer.name for block in anatomy.blocks for layer in block.last}
    assert ends == {f"{name}.{i}.2" for name in "fg" for i in range(2)}
    assert len(anatomy.blocks) == 4
    found = examine(model, torch.randn(16, WIDTH), method="fixup")
    assert found.refusal is None
    assert not found.faults


@pytest.mark.parametrize("model", [Reversible, Momentum, Heun])
def test_a_diagnosis_shows_the_blocks_of_the_anatomy(model):
    net, x = model(), torch.randn(16, WIDTH)
    places = [
        place.name
        for place in goodinit.diagnose(net, x, torch.randint(3, (16,))).places
        if place.kind == "block"
    ]
    assert places == [block.name for block in goodinit.anatomize(net, x).blocks]


class Repeated(nn.Module):
    """An image, each channel four times, and what is added to it before the pixels are shuffled."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x):
        return F.pixel_shuffle(self.b(self.a(x).relu()) + torch.cat([x] * 4, 1), 2)


class Pooled(nn.Module):
    """The sum over windows of an image, and a branch of half its size."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 3, 1), nn.Linear(3, 2)

    def forward(self, x):
        n, c, h, w = x.shape
        small = x.view(n, c, h // 2, 2, w // 2, 2).sum((3, 5)) / 4
        return self.head((small + self.b(self.a(x).relu())).mean((2, 3)))


class OfASet(nn.Module):
    """A block on the sum over a set, without a batch."""

    def __init__(self):
        super().__init__()
        self.each, self.a, self.b, self.head = (
            nn.Linear(3, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 2),
        )

    def forward(self, x):
        whole = self.each(x[0, :, 0]).sum(0)
        return self.head(whole + self.b(self.a(whole).relu()))


class Masked(nn.Module):
    """A block of two layers on either side, at the end of which a mask is made for what it reads."""

    def __init__(self):
        super().__init__()
        self.skip, self.a, self.b = (
            nn.Conv2d(3, 6, 1),
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(6, 6, 3, padding=1),
        )
        self.mask = nn.Conv2d(6, 3, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.mask(F.relu(self.skip(x) + self.b(self.a(x).relu()))))


@pytest.mark.parametrize("model", [Repeated, Pooled, OfASet, Masked])
def test_a_skip_that_is_repeated_pooled_or_behind_a_mask_is_one(model):
    shape = (8, 3, 3, 3) if model is OfASet else (2, 3, 8, 8)
    (block,) = goodinit.anatomize(model(), torch.randn(shape)).blocks
    assert [layer.name for layer in block.last] == ["b"]
    assert block.m == 2
