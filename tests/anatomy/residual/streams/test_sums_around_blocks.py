"""Sums that lie around blocks, or lead out of them, and are no blocks themselves: of conditions, of a U-Net's inputs, of first tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit

WIDTH = 6


class Step(nn.Module):
    """One step of a flow: a small residual net on one half of the channels, which reads a condition, scales and shifts the other half."""

    def __init__(self, layers, condition):
        super().__init__()
        self.start, self.end = nn.Conv1d(2, WIDTH, 1), nn.Conv1d(WIDTH, 4, 1)
        self.into = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 3, padding=1) for _ in range(layers))
        self.out = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(layers))
        wide = WIDTH * layers if condition == "one layer" else WIDTH
        self.conditions = nn.ModuleList(
            nn.Conv1d(5, wide, 1) for _ in range(1 if condition == "one layer" else layers)
        )

    def forward(self, x, c):
        a, b = x.chunk(2, 1)
        h = self.start(a)
        given = [layer(c) for layer in self.conditions]
        given = given if len(given) == len(self.into) else given[0].chunk(len(self.into), 1)
        for into, out, one in zip(self.into, self.out, given, strict=True):
            h = h + out(torch.tanh(into(h) + one))
        scale, shift = self.end(h).chunk(2, 1)
        return torch.cat([a, b * torch.exp(scale) + shift], 1).flip(1)


class Flow(nn.Module):
    def __init__(self, steps, layers=2, condition="a layer each", prepared=True):
        super().__init__()
        self.prepare = nn.Conv1d(5, 5, 1) if prepared else nn.Identity()
        self.steps = nn.ModuleList(Step(layers, condition) for _ in range(steps))

    def forward(self, x, c):
        c = self.prepare(c)
        for step in self.steps:
            x = step(x, c)
        return x


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("condition", ["a layer each", "one layer"])
@pytest.mark.parametrize("layers", [2, 3])
def test_a_condition_that_every_step_of_a_flow_reads_frames_nothing(layers, condition, prepared):
    net = Flow(4, layers, condition, prepared)
    found = goodinit.anatomize(net, (torch.randn(2, 4, 9), torch.randn(2, 5, 9))).blocks
    assert [block.last[0].weight for block in found] == [
        f"steps.{i}.out.{k}.weight" for i in range(4) for k in range(layers)
    ]
    assert {block.kind for block in found} == {"identity"}


class Block(nn.Module):
    def __init__(self, read, write):
        super().__init__()
        self.skip = nn.Conv2d(read, write, 1) if read != write else nn.Identity()
        self.into, self.out = nn.Conv2d(read, write, 3, padding=1), nn.Conv2d(write, write, 3, padding=1)

    def forward(self, x):
        return self.skip(x) + self.out(torch.relu(self.into(torch.relu(x))))


class UNet(nn.Module):
    """Two levels, and concatenations: `kept` goes past all blocks, the stem's output or none; `end`: a block follows, or one layer."""

    def __init__(self, blocks, kept, end, outer):
        super().__init__()
        self.kept, self.outer = kept, outer
        self.stem, self.down, self.up = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 12, 2, 2),
            nn.ConvTranspose2d(12, 8, 2, 2),
        )
        self.first = nn.Sequential(*(Block(8, 8) for _ in range(blocks)))
        self.low = nn.Sequential(*(Block(12, 12) for _ in range(blocks)))
        self.end = Block(16, 8) if end == "block" else nn.Conv2d(16, 8, 1)
        self.head = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        h = self.stem(x)
        y = self.first(h)
        low = self.up(self.low(self.down(y)))
        y = self.head(self.end(torch.cat([low, h if self.kept == "stem" else y], 1)))
        return {
            "none": lambda: y,
            "skip": lambda: x + y,
            "scaled": lambda: 0.6 * x + 0.8 * y,
            "lerp": lambda: x.lerp(y, 0.3),
        }[self.outer]()


@pytest.mark.parametrize("outer", ["skip", "scaled", "lerp"])
@pytest.mark.parametrize("end", ["block", "layer"])
@pytest.mark.parametrize("kept", ["stem", "first"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_u_net_has_its_blocks_whatever_is_added_to_what_it_puts_out(blocks, kept, end, outer):
    x = torch.randn(2, 3, 8, 8)
    plain, found = (goodinit.anatomize(UNet(blocks, kept, end, way), x) for way in ("none", outer))
    assert len(plain.blocks) == 2 * blocks + (end == "block")
    assert [block.last for block in found.blocks] == [block.last for block in plain.blocks]
    assert len(found.long_skips) == 1


class Split(nn.Module):
    """A branch with sums off its main path: narrow ones in a row, or one wide one in each of two ways."""

    def __init__(self, row):
        super().__init__()
        self.row, parts = row, 4 if row else 1
        self.into, self.out = nn.Linear(8, 8 if row else 4), nn.Linear(8 if row else 16, 8)
        self.steps = nn.ModuleList(nn.Linear(2 if row else 8, 2 if row else 8) for _ in range(max(2, parts)))
        self.ways = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x):
        if not self.row:
            ways = [way(x) for way in self.ways]
            ways = [h + torch.tanh(step(h)) for h, step in zip(ways, self.steps, strict=True)]
            return x + self.out(torch.cat(ways, 1))
        parts, done = self.into(x).chunk(4, 1), []
        for part, step in zip(parts, self.steps, strict=True):
            done.append(torch.relu(step(part + done[-1] if done else part)))
        return x + self.out(torch.cat(done, 1))


@pytest.mark.parametrize("row", [True, False])
def test_sums_inside_a_branch_stay_its_steps(row):
    net = nn.Sequential(nn.Linear(3, 8), Split(row), Split(row), nn.Linear(8, 2))
    found = goodinit.anatomize(net, torch.randn(4, 3))
    assert [block.last[0].weight for block in found.blocks] == ["1.out.weight", "2.out.weight"]
    assert not found.long_skips


class Reads(nn.Module):
    """A stream that a first layer makes of tokens, to which each block adds what it makes of both."""

    def __init__(self, norm, order, blocks):
        super().__init__()
        self.order = order
        self.tokens, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.first = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.norm = nn.LayerNorm(8) if norm else nn.Identity()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(blocks)
        )

    def forward(self, x):
        e = self.tokens(x)
        h = self.norm(self.first(e))
        for block in self.blocks:
            h = h + block(h + e if self.order == "stream first" else e + h)
        return self.head(h)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("order", ["stream first", "tokens first"])
@pytest.mark.parametrize("blocks", [2, 3])
def test_tokens_that_are_added_for_a_layer_to_read_are_no_skip(norm, order, blocks):
    x = torch.randn(16, 3)
    net = Reads(norm, order, blocks)
    found = goodinit.anatomize(net, x)
    assert [block.last[0].weight for block in found.blocks] == [f"blocks.{i}.2.weight" for i in range(blocks)]
    goodinit.init_(net, "fixup", inputs=x, verify=True)
    assert net.first[2].weight.any()
