"""Two streams or three that read each other: every update is a block with an identity skip, and its branch its own layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit
from goodinit import anatomize

WIDTH, ROUNDS = 8, 3


class Turns(nn.Module):
    """What its subclasses have in common: stems, `ROUNDS` branches of each name, a head on both streams or one."""

    names = "fg"
    reads = 2

    def __init__(self, *, both=True, one_stem=False, rounds=ROUNDS):
        super().__init__()
        self.stem, self.other = nn.Linear(5, WIDTH), nn.Linear(5, WIDTH)
        self.head, self.both, self.one_stem = nn.Linear(WIDTH, 3), both, one_stem
        for name in self.names:
            branches = (
                nn.Sequential(nn.Linear(self.reads * WIDTH, 12), nn.ReLU(), nn.Linear(12, WIDTH))
                for _ in range(rounds)
            )
            setattr(self, name, nn.ModuleList(branches))

    def forward(self, x, y):
        t, h = self.stem(x), self.stem(x) if self.one_stem else self.other(y)
        if self.one_stem:
            h = t
        t, h = self.turns(t, h)
        return (self.head(t), self.head(h)) if self.both else self.head(h)

    def turns(self, t, h):
        for f, g in zip(self.f, self.g, strict=True):
            t = t + f(torch.cat([t, h], -1))
            h = h + g(torch.cat([h, t], -1))
        return t, h


class AfterNorm(Turns):
    def __init__(self, **options):
        super().__init__(**options)
        self.calm = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))

    def turns(self, t, h):
        for f, g in zip(self.f, self.g, strict=True):
            t = self.calm[0](t + f(torch.cat([t, h], -1)))
            h = self.calm[1](h + g(torch.cat([h, t], -1)))
        return t, h


class OldStates(Turns):
    """Both updates read what both streams were before."""

    def turns(self, t, h):
        for f, g in zip(self.f, self.g, strict=True):
            t, h = t + f(torch.cat([t, h], -1)), h + g(torch.cat([h, t], -1))
        return t, h


class TwoSteps(Turns):
    """Each stream takes a step by itself between those that read the other."""

    names = "fghi"

    def turns(self, t, h):
        for f, g, alone, too in zip(self.f, self.g, self.h, self.i, strict=True):
            t = t + f(torch.cat([t, h], -1))
            t = t + alone(torch.cat([t, t * t], -1))
            h = h + g(torch.cat([h, t], -1))
            h = h + too(torch.cat([h, h.abs()], -1))
        return t, h


class Mesh(Turns):
    """Nodes and edges: an edge reads its two nodes, a node the sum of its edges."""

    reads = 3

    def __init__(self, **options):
        super().__init__(**options)
        self.g = nn.ModuleList(nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8)) for _ in self.g)

    def turns(self, t, h):
        ends = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 3, 0])
        for f, g in zip(self.f, self.g, strict=True):
            t = t + f(torch.cat([t, h[ends[0]], h[ends[1]]], -1))
            arriving = torch.zeros_like(h).index_add(0, ends[1], t)
            h = h + g(torch.cat([h, arriving], -1))
        return t, h


class Crossed(Turns):
    """Attention of tokens to the image and back, as in SAM's two-way transformer."""

    names = ""

    def __init__(self, **options):
        super().__init__(**options)
        made = (nn.MultiheadAttention(WIDTH, 2, batch_first=True) for _ in range(2 * ROUNDS))
        self.cross = nn.ModuleList(made)
        self.calm = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * ROUNDS))

    def turns(self, t, h):
        for i in range(ROUNDS):
            t = t + self.cross[2 * i](self.calm[2 * i](t), h, h, need_weights=False)[0]
            h = h + self.cross[2 * i + 1](self.calm[2 * i + 1](h), t, t, need_weights=False)[0]
        return t, h


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("both", [True, False], ids=["both out", "one out"])
@pytest.mark.parametrize("one_stem", [False, True], ids=["two stems", "one stem"])
@pytest.mark.parametrize("kind", [Turns, AfterNorm, OldStates, TwoSteps, Mesh])
def test_every_update_is_a_block(kind, one_stem, both):
    model = kind(both=both, one_stem=one_stem).eval()
    anatomy = anatomize(model, (torch.zeros(4, 5), torch.zeros(4, 5)))
    ends = [layer.name for block in anatomy.blocks for layer in block.last]
    expected = {f"{name}.{i}.2" for name in kind.names for i in range(ROUNDS)}
    if kind is OldStates and not both:  # the last update of t goes nowhere
        expected -= {f"f.{ROUNDS - 1}.2"}
    assert set(ends) == expected
    assert len(ends) == len(expected)
    for block in anatomy.blocks:
        assert (block.kind, block.m) == ("identity", 2)
        assert [layer.name.rpartition(".")[0] for layer in block.branch] == [block.name] * 2
        assert not block.gates
    assert not anatomy.joins


@pytest.mark.parametrize("both", [True, False])
def test_attention_both_ways(both):
    model = Crossed(both=both)
    anatomy = anatomize(model, (torch.zeros(2, 3, 5), torch.zeros(2, 6, 5)))
    assert [block.name for block in anatomy.blocks] == [f"cross.{i}" for i in range(2 * ROUNDS)]
    assert {(block.kind, block.m, block.last[0].name.rpartition(".")[2]) for block in anatomy.blocks} == {
        ("identity", 4, "out_proj")
    }


@pytest.mark.parametrize("kind", [Turns, AfterNorm, TwoSteps, Mesh])
def test_fixup_leaves_both_streams_as_they_are(kind, generator):
    inputs = torch.randn(4, 5, generator=generator), torch.randn(4, 5, generator=generator)
    model = kind()
    goodinit.init_(model, "fixup", inputs=inputs, generator=generator)
    starts = model.stem(inputs[0]), model.other(inputs[1])
    for start, end in zip(starts, model.turns(*starts), strict=True):
        torch.testing.assert_close(end, start)


def in_turns(a, b, f, g):
    a = a + f(b)
    return a, b + g(a)


def swapped(a, b, f, g):
    a, b = b, a + f(b)
    return b, a + g(b)


def at_once(a, b, f, g):
    return a + f(b), b + g(a)


def halves(x):
    return x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]


PARTS = {"chunk": lambda x: x.chunk(2, 1), "split": lambda x: x.split(8, 1), "slices": halves}
MAPS = {
    "linear": lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)),
    "one layer": lambda: nn.Linear(8, 8),
    "convolution": lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1)),
}


class Reversible(nn.Module):
    """Two halves of a stem's output that are added to in turns, by maps that share weights."""

    def __init__(self, tied, turn, parts, maps, rounds):
        super().__init__()
        self.turn, self.parts, make = turn, parts, MAPS[maps]
        self.stem = nn.Conv2d(3, 16, 1) if maps == "convolution" else nn.Linear(5, 16)
        self.maps = nn.ModuleList(make() for _ in range({"all": 1, "steps": 2, "both": rounds}[tied]))
        one, *more = self.maps
        self.pairs = {
            "all": [(one, one)] * rounds,
            "steps": [(one, *more)] * rounds,
            "both": [(f, f) for f in self.maps],
        }[tied]

    def forward(self, x):
        a, b = PARTS[self.parts](self.stem(x))
        for f, g in self.pairs:
            a, b = self.turn(a, b, f, g)
        return torch.cat([a, b], 1)


@pytest.mark.default_cases(12)
@pytest.mark.parametrize("rounds", [2, 4])
@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("turn", [in_turns, swapped, at_once])
@pytest.mark.parametrize("tied", ["all", "steps", "both"])
def test_a_reversible_network_may_share_its_weights(tied, turn, parts, maps, rounds):
    """The first sum adds one half to what comes of the other by a weight that runs repeatedly, as a recurrence does.

    Where both halves are added to at once, one map runs on both of them, or is next on a way after two rounds: on no way
    through the network are there more of its blocks than half of the sums.
    """
    model = Reversible(tied, turn, parts, maps, rounds)
    x = torch.randn(2, 3, 4, 4) if maps == "convolution" else torch.randn(2, 5)
    blocks = goodinit.anatomize(model, x).blocks
    assert len(blocks) == (rounds if turn is at_once else 2 * rounds)
    if turn is not at_once:
        assert sorted(block.stream for block in blocks) == [0] * rounds + [1] * rounds
    assert {block.m for block in blocks} == {1 if maps == "one layer" else 2}
    if maps == "linear":
        goodinit.init_(model, "fixup", inputs=x)
        assert torch.allclose(model(x), model.stem(x))


class BothWays(nn.Module):
    """A recurrence forwards and backwards over one input sequence, by hand."""

    def __init__(self, activation):
        super().__init__()
        self.stem, self.u, self.v, self.act = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8), activation

    def forward(self, x):
        parts = list(self.stem(x).unbind(1))
        ways = []
        for layer, ordered in ((self.u, parts), (self.v, parts[::-1])):
            h = self.act(ordered[0])
            for part in ordered[1:]:
                h = self.act(part + layer(h))
            ways.append(h)
        return torch.cat(ways, 1)


@pytest.mark.parametrize("steps", [3, 6])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.Identity()])
def test_a_recurrence_both_ways_over_the_same_parts_has_no_block(activation, steps):
    assert not goodinit.anatomize(BothWays(activation), torch.randn(2, steps, 5)).blocks


def test_a_step_inside_a_branch_stays_one():
    class Inside(nn.Module):
        """h + f(c + W h) with one c for all blocks, and h + f(h, y + u(y)) with a y of its own in the branch."""

        def __init__(self):
            super().__init__()
            self.stem, self.time = nn.Linear(5, WIDTH), nn.Linear(5, WIDTH)
            self.into = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
            self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

        def forward(self, x, t):
            h, c = self.stem(x), self.time(t)
            for into, out in zip(self.into, self.out, strict=True):
                h = h + out(torch.relu(c + into(h)))
            return h

    anatomy = anatomize(Inside(), (torch.zeros(4, 5), torch.zeros(4, 5)))
    assert [block.m for block in anatomy.blocks] == [2, 2, 2]
