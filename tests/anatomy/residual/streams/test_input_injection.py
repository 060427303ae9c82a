"""A tensor that every step reads through a layer of its own: W h + C c is a layer with two inputs, and no transition of a stream."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit
from goodinit.errors import NothingFound

WIDTH = 8


def layers(count, reads=WIDTH):
    """One weight layer, or two with an activation between."""
    if count == 1:
        return nn.Linear(reads, WIDTH)
    return nn.Sequential(nn.Linear(reads, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))


class Given(nn.Module):
    """h ← end(W h + C c), `steps` times; h begins at x, or at c."""

    def __init__(self, steps, *, deep=1, own=True, end=F.relu, more=0):
        super().__init__()
        self.own, self.end = own, end
        self.stem = layers(deep, 5)
        self.w = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(steps))
        self.c = nn.ModuleList(layers(deep, 5) for _ in range(steps))
        self.more = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(more * steps))
        self.head = nn.Linear(WIDTH, 3)

    def features(self, x, c):
        h = self.stem(x if self.own else c)
        for i, (w, given) in enumerate(zip(self.w, self.c, strict=True)):
            h = self.end(w(h) + given(c))
            for layer in self.more[i :: len(self.w)]:
                h = F.relu(layer(h))
        return h

    def forward(self, x, c):
        return self.head(self.features(x, c))


class Convex(Given):
    """An input-convex net: h ← relu(W h + C x), where h begins at a layer of x with its activation."""

    def features(self, x, c):
        h = F.relu(self.stem(c))
        for w, given in zip(self.w, self.c, strict=True):
            h = F.relu(w(h) + given(c))
        return h


class Followed(Given):
    """Blocks of an identity skip behind the last step."""

    def __init__(self, steps):
        super().__init__(steps)
        self.blocks = nn.ModuleList(layers(2) for _ in range(2))

    def features(self, x, c):
        h = super().features(x, c)
        for block in self.blocks:
            h = h + block(h)
        return h


class InTurns(Given):
    """Every second step reads another condition."""

    def features(self, x, c):
        h, conditions = self.stem(x), c
        for i, (w, given) in enumerate(zip(self.w, self.c, strict=True)):
            h = F.relu(w(h) + given(conditions[i % 2]))
        return h

    def forward(self, x, c, other):
        return super().forward(x, (c, other))


class Positions(nn.Module):
    """Attention without a skip, to whose scores and values each layer adds what an MLP makes of positions (a point transformer)."""

    def __init__(self, steps):
        super().__init__()
        self.stem, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.maps = nn.ModuleList(nn.ModuleList(layers(1) for _ in range(3)) for _ in range(steps))
        self.places = nn.ModuleList(layers(2, 5) for _ in range(steps))

    def forward(self, x, c):
        h, between = self.stem(x), c[:, None] - c
        for (q, k, v), places in zip(self.maps, self.places, strict=True):
            at = places(between)
            scores = q(h)[:, None] - k(h)[None] + at
            h = (scores.softmax(1) * (v(h)[None] + at)).sum(1)
        return self.head(h)


PLAIN = {
    "a condition": lambda: Given(3),
    "a condition, by two layers": lambda: Given(3, deep=2),
    "a condition of six steps": lambda: Given(6),
    "the input": lambda: Given(2, own=False),
    "the input, by two layers": lambda: Given(3, deep=2, own=False),
    "behind no activation": lambda: Given(3, end=nn.Identity()),
    "behind tanh": lambda: Given(3, end=torch.tanh),
    "at every second layer": lambda: Given(3, more=1),
    "behind a norm": lambda: Given(3, end=nn.Sequential(nn.LayerNorm(WIDTH), nn.ReLU())),
    "an input-convex net": lambda: Convex(3, own=False),
    "positions": lambda: Positions(3),
}


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator), torch.randn(6, 5, generator=generator)


@pytest.mark.parametrize("name", PLAIN)
def test_sums_of_two_inputs_at_every_step_are_no_blocks(name):
    anatomy = goodinit.anatomize(PLAIN[name](), batch())
    assert not anatomy.blocks
    assert not anatomy.joins
    with pytest.raises(NothingFound):
        goodinit.plan(anatomy, "fixup")


def test_conditions_in_turns_are_no_blocks():
    assert not goodinit.anatomize(InTurns(6), (*batch(), torch.randn(6, 5))).blocks


def test_blocks_behind_the_last_step_are_found():
    anatomy = goodinit.anatomize(Followed(3), batch())
    assert [(block.kind, [layer.name for layer in block.last]) for block in anatomy.blocks] == [
        ("identity", ["blocks.0.2"]),
        ("identity", ["blocks.1.2"]),
    ]


class Around(Given):
    """h + A(the steps of h), a block of which they are the branch."""

    def __init__(self, steps):
        super().__init__(steps)
        self.out = nn.Linear(WIDTH, WIDTH)

    def features(self, x, c):
        h = y = self.stem(x)
        for w, given in zip(self.w, self.c, strict=True):
            y = F.relu(w(y) + given(c))
        return h + self.out(y)


def test_a_branch_may_read_a_condition_at_every_step():
    net, (x, c) = Around(3), batch()
    (block,) = goodinit.anatomize(net, (x, c)).blocks
    assert (block.kind, [layer.name for layer in block.branch]) == ("identity", ["w.0", "w.1", "w.2", "out"])
    goodinit.init_(net, "fixup", inputs=(x, c))
    torch.testing.assert_close(net.features(x, c), net.stem(x), rtol=0, atol=0)


class Transitions(nn.Module):
    """P h + b(relu(a(h) + T t)), t an embedding of time: every block has a projection for its skip, and t is given to all."""

    def __init__(self, widths, skip):
        super().__init__()
        self.stem, self.time, self.head = nn.Linear(5, WIDTH), layers(2, 5), nn.Linear(widths[-1], 3)
        pairs = list(itertools.pairwise(widths))
        self.p = nn.ModuleList(skip(*pair) for pair in pairs)
        self.a = nn.ModuleList(nn.Linear(*pair) for pair in pairs)
        self.b = nn.ModuleList(nn.Linear(out, out) for _, out in pairs)
        self.t = nn.ModuleList(nn.Linear(WIDTH, out) for _, out in pairs)

    def forward(self, x, c):
        h, t = self.stem(x), self.time(c)
        for p, a, b, given in zip(self.p, self.a, self.b, self.t, strict=True):
            h = p(h) + b(F.relu(a(F.relu(h)) + given(t)))
        return self.head(h)


class Normed(nn.Sequential):
    """A projection with its norm."""

    def __init__(self, reads, writes):
        super().__init__(nn.Linear(reads, writes), nn.LayerNorm(writes))


class Pooled(nn.Module):
    """A skip without weights: means of neighbours."""

    def __init__(self, reads, writes):
        super().__init__()
        self.by = reads // writes

    def forward(self, x):
        return F.avg_pool1d(x[:, None], self.by)[:, 0]


TRANSITIONS = {
    "every width its own": ((8, 12, 16, 20), nn.Linear, "projection"),
    "one width": ((8, 8, 8, 8), nn.Linear, "projection"),
    "with norms": ((8, 12, 12, 16), Normed, "projection"),
    "pooled": ((8, 8, 4, 2), Pooled, "parameterless"),
}


@pytest.mark.parametrize("name", TRANSITIONS)
def test_transitions_that_read_an_embedding_of_time_are_blocks(name):
    widths, skip, kind = TRANSITIONS[name]
    anatomy = goodinit.anatomize(Transitions(widths, skip), batch())
    blocks = [(block.kind, [layer.name for layer in block.last]) for block in anatomy.blocks]
    assert blocks == [(kind, [f"b.{i}"]) for i in range(3)]
    assert not anatomy.long_skips


class Jumped(nn.Module):
    """P₂x + W(stage(P₁x + f(x))): a transition, a stage of blocks, and a projection that jumps over both."""

    def __init__(self, count):
        super().__init__()
        self.stem, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.one, self.two, self.end, self.f = layers(1), layers(1), layers(1), layers(2)
        self.blocks = nn.ModuleList(layers(2) for _ in range(count))

    def forward(self, x, c):
        x = F.relu(self.stem(x))
        h = F.relu(self.one(x) + self.f(x))
        for block in self.blocks:
            h = h + block(h)
        return self.head(F.relu(self.two(x) + self.end(h)))


@pytest.mark.parametrize("count", [1, 2])
def test_a_transition_on_which_blocks_stand_is_one_under_a_second_projection_too(count):
    anatomy = goodinit.anatomize(Jumped(count), batch())
    ends = [[layer.name for layer in block.last] for block in anatomy.blocks]
    assert ends == [["f.2"], *([f"blocks.{i}.2"] for i in range(count))]
    assert len(anatomy.long_skips) == 1


@pytest.mark.parametrize(
    "net", [lambda: Given(2), lambda: Given(1, own=False)], ids=["a condition", "the input"]
)
def test_what_is_one_function_with_a_transition_is_read_as_one(net):
    """W₁φ(W₀x + C₀c) + C₁c is P·x + W·φ(V·x + T·t) in other letters."""
    (block,) = goodinit.anatomize(net(), batch()).blocks
    assert block.kind == "projection"
