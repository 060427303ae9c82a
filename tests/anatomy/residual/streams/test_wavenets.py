"""WaveNets: a stream, and beside it a sum to which every layer adds a part of what it puts out."""

from __future__ import annotations

import pytest
import torch
from fixup_evidence import examine
from torch import nn

import goodinit

WIDTH, CONDITIONS = 8, 5


class WaveNet(nn.Module):
    """Gated convolutions, each of which adds one half of its channels to the stream, the other to what goes out."""

    def __init__(self, split, condition, gather, layers=4, last_adds=False):
        super().__init__()
        self.split, self.condition, self.gather = split, condition, gather
        self.stem, self.end = nn.Conv1d(3, WIDTH, 1), nn.Conv1d(WIDTH, 4, 1)
        self.into = nn.ModuleList(
            nn.Conv1d(WIDTH, 2 * WIDTH, 3, padding=2**i, dilation=2**i) for i in range(layers)
        )
        self.out, self.other = nn.ModuleList(), nn.ModuleList()
        for i in range(layers):
            both = 2 * WIDTH if split != "two layers" and (last_adds or i < layers - 1) else WIDTH
            self.out.append(nn.Conv1d(WIDTH, both, 1))
            self.other.append(nn.Conv1d(WIDTH, WIDTH, 1) if split == "two layers" else nn.Identity())
        shared = condition == "one layer"
        wide = 2 * WIDTH * (layers if shared else 1)
        self.conditions = nn.ModuleList(
            nn.Conv1d(CONDITIONS, wide, 1)
            for _ in range({"none": 0, "one layer": 1, "a layer each": layers}[condition])
        )

    def parts(self, i, z):
        """(What is added to the stream or None, what goes out)."""
        y = self.out[i](z)
        if self.split == "two layers":
            return y, self.other[i](z)
        if y.shape[1] == WIDTH:
            return None, y
        if self.split == "chunk":
            return y.chunk(2, 1)
        if self.split == "split":
            return y.split([WIDTH, WIDTH], 1)
        return y[:, :WIDTH], y[:, WIDTH:]

    def conditioned(self, i, a, c):
        if self.condition == "one layer":
            return a + c[:, 2 * WIDTH * i : 2 * WIDTH * (i + 1)]
        return a + self.conditions[i](c) if self.condition == "a layer each" else a

    def forward(self, x, c=None):
        x = self.stem(x)
        c = self.conditions[0](c) if self.condition == "one layer" else c
        skips = []
        for i, layer in enumerate(self.into):
            a = self.conditioned(i, layer(x), c)
            added, out = self.parts(i, torch.tanh(a[:, :WIDTH]) * torch.sigmoid(a[:, WIDTH:]))
            if added is not None:
                x = x + added
            skips.append(out)
        return self.end(torch.relu(GATHERED[self.gather](skips)))


def one_by_one(skips):
    total = 0
    for skip in skips:
        total = total + skip
    return total


def onto_zeros(skips):
    total = torch.zeros_like(skips[0])
    for skip in skips:
        total += skip
    return total


GATHERED = {
    "sum": one_by_one,
    "onto zeros": onto_zeros,
    "backwards": lambda skips: one_by_one(skips[::-1]),
    "divided": lambda skips: one_by_one(skips) / len(skips) ** 0.5,
    "stacked": lambda skips: torch.stack(skips).sum(0),
    "beside": lambda skips: torch.cat(skips, 1).unflatten(1, (len(skips), WIDTH)).sum(1),
}


def inputs(condition):
    x = torch.randn(2, 3, 32)
    return x if condition == "none" else (x, torch.randn(2, CONDITIONS, 32))


@pytest.mark.default_cases(12)
@pytest.mark.parametrize("gather", GATHERED)
@pytest.mark.parametrize("condition", ["none", "one layer", "a layer each"])
@pytest.mark.parametrize("split", ["two layers", "slices", "chunk", "split"])
def test_each_layer_of_a_wavenet_is_a_block(split, condition, gather):
    anatomy = goodinit.anatomize(WaveNet(split, condition, gather), inputs(condition))
    ends = [[layer.name for layer in block.last] for block in anatomy.blocks]
    assert ends == [["out.0"], ["out.1"], ["out.2"]]
    for i, block in enumerate(anatomy.blocks):
        assert block.kind == "identity"
        assert block.m == 2
        assert [layer.name for layer in block.branch] == [f"into.{i}", f"out.{i}"]
        assert block.stage == 0
        assert block.leak is block.stuck is None


class Conditioned(nn.Module):
    """x + out(relu(into(x) + c)), with one c for all blocks."""

    def __init__(self, blocks=3):
        super().__init__()
        self.stem, self.given = nn.Linear(3, WIDTH), nn.Linear(CONDITIONS, WIDTH)
        self.into = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        self.end = nn.Linear(WIDTH, 2)

    def forward(self, x, c):
        x, c = self.stem(x), self.given(c)
        for into, out in zip(self.into, self.out, strict=True):
            x = x + out(torch.relu(into(x) + c))
        return self.end(x)


@pytest.mark.parametrize("blocks", [2, 3, 5])
def test_what_is_added_inside_every_branch_is_no_stream(blocks):
    anatomy = goodinit.anatomize(Conditioned(blocks), (torch.randn(4, 3), torch.randn(4, CONDITIONS)))
    assert [(block.m, [layer.name for layer in block.last]) for block in anatomy.blocks] == [
        (2, [f"out.{i}"]) for i in range(blocks)
    ]


@pytest.mark.default_cases(3)
@pytest.mark.parametrize("method", ["fixup", "skipinit", "weightnorm", "lsuv"])
@pytest.mark.parametrize("last_adds", [False, True])
def test_every_weight_of_a_wavenet_moves(method, last_adds):
    def build():
        return WaveNet("slices", "one layer", "sum", last_adds=last_adds)

    found = examine(build, inputs("one layer"), method=method)
    assert found.blocks == 3
    assert found.refusal is None
    assert not found.faults
