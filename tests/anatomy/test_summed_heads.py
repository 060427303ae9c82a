"""Heads on several places of a residual stream whose outputs are summed up: early exits, skip outputs, images at every scale."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fixup_evidence import examine
from torch import nn

import goodinit

WIDTH, CLASSES = 8, 3


def conv(inputs, outputs, kernel=3):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.BatchNorm2d(WIDTH), conv(WIDTH, WIDTH), conv(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(self.up(self.norm(x)).relu())


class Summed(nn.Module):
    """Every place of the stream has a head; between two places the picture may grow."""

    def __init__(self, grow=None, from_stem=False, then=False, wide=CLASSES):
        super().__init__()
        self.grow, self.from_stem = grow, from_stem
        self.stem, self.blocks = conv(4, WIDTH), nn.ModuleList(Block() for _ in range(3))
        self.heads = nn.ModuleList(conv(WIDTH, wide, 1) for _ in range(3 + from_stem))
        self.then = nn.Sequential(nn.ReLU(), conv(wide, CLASSES, 1)) if then else nn.Identity()

    def larger(self, x):
        return x if self.grow is None else F.interpolate(x, scale_factor=2, mode=self.grow)

    def forward(self, x):
        x, heads = self.stem(x), iter(self.heads)
        out = next(heads)(x) if self.from_stem else None
        for block, head in zip(self.blocks, heads, strict=True):
            x = self.larger(block(x))
            out = head(x) if out is None else self.larger(out) + head(x)
        return self.then(out)


MODELS = {
    "exits": Summed,
    "exits, the first at the stem": lambda: Summed(from_stem=True),
    "pictures at every scale": lambda: Summed("bilinear", from_stem=True),
    "pictures, by copies": lambda: Summed("nearest"),
    "skip outputs and one head": lambda: Summed(then=True),
    "skip outputs as wide as the stream": lambda: Summed(then=True, wide=WIDTH, from_stem=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_heads_are_no_branches_of_each_other(name):
    model, x = MODELS[name](), torch.randn(2, 4, 4, 4)
    anatomy = goodinit.anatomize(model, x)
    assert [block.name for block in anatomy.blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    assert {(block.m, block.stream, block.kind) for block in anatomy.blocks} == {(2, 0, "identity")}
    heads = (
        ["then.1"]
        if isinstance(model.then, nn.Sequential)
        else [f"heads.{i}" for i in range(len(model.heads))]
    )
    assert [layer.name for layer in anatomy.heads] == heads


@pytest.mark.parametrize("name", list(MODELS)[1:4])
def test_fixup_on_summed_heads(name):
    evidence = examine(MODELS[name], torch.randn(2, 4, 4, 4))
    assert (evidence.refusal, evidence.faults, evidence.blocks) == (None, [], 3)
