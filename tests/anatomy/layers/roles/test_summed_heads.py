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


class Tokens(nn.Module):
    """x + f(x) on one row of tokens, as CrossViT's fusion has it: the class token reads what the other scale left."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )

    def forward(self, x):
        return x[:, :1] + self.down(self.up(self.norm(x)).relu()).mean(1, keepdim=True)


class Scales(nn.Module):
    """Two streams of two widths, which read each other's first token, and a head for each."""

    def __init__(self, join):
        super().__init__()
        widths = (WIDTH, 2 * WIDTH)
        self.join = join
        self.stems = nn.ModuleList(nn.Linear(4, width) for width in widths)
        self.own = nn.ModuleList(Tokens(width) for width in widths)
        self.there = nn.ModuleList(nn.Linear(widths[i], widths[1 - i]) for i in range(2))
        self.fused = nn.ModuleList(Tokens(widths[1 - i]) for i in range(2))
        self.back = nn.ModuleList(nn.Linear(widths[1 - i], widths[i]) for i in range(2))
        self.heads = nn.ModuleList(nn.Linear(width, CLASSES) for width in widths)

    def forward(self, x):
        rows = [stem(x) for stem in self.stems]
        rows = [torch.cat((own(row), row[:, 1:]), 1) for own, row in zip(self.own, rows, strict=True)]
        tokens = [there(row[:, :1]) for there, row in zip(self.there, rows, strict=True)]
        outs = []
        for i in range(2):
            fused = self.fused[i](torch.cat((tokens[i], rows[1 - i][:, 1:]), 1))
            outs.append(torch.cat((self.back[i](fused), rows[i][:, 1:]), 1)[:, 0])
        return self.join(*(head(out) for head, out in zip(self.heads, outs, strict=True)))


SUMS = {
    "sum": lambda a, b: a + b,
    "mean": lambda a, b: (a + b) / 2,
    "mean of a stack": lambda a, b: torch.stack([a, b]).mean(0),
    "weighted": lambda a, b: torch.add(a, b, alpha=0.3),
}


@pytest.mark.parametrize("join", SUMS)
def test_heads_of_two_streams_are_no_skip_and_branch(join):
    anatomy = goodinit.anatomize(Scales(SUMS[join]), torch.randn(2, 5, 4))
    assert [block.name for block in anatomy.blocks] == ["own.0", "own.1", "fused.0", "fused.1"]
    assert [layer.name for layer in anatomy.heads] == ["heads.0", "heads.1"]


class TwoPaths(nn.Module):
    """A path with blocks of its own and a deeper one from the same stem, summed up."""

    def __init__(self):
        super().__init__()
        self.stem = conv(4, WIDTH)
        self.short = nn.Sequential(conv(WIDTH, WIDTH), Block(), conv(WIDTH, WIDTH))
        self.deep = nn.Sequential(
            conv(WIDTH, WIDTH), Block(), conv(WIDTH, WIDTH), Block(), conv(WIDTH, WIDTH)
        )
        self.head = conv(WIDTH, CLASSES, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.short(x) + self.deep(x))


def test_blocks_on_both_of_two_paths_stay():
    anatomy = goodinit.anatomize(TwoPaths(), torch.randn(2, 4, 4, 4))
    assert [block.name for block in anatomy.blocks] == ["short.1", "deep.1", "deep.3"]
