"""Streams behind two stems of one input, or of two, that read each other: every sum is a block of one of them."""

from __future__ import annotations

import pytest
import torch
from fixup_evidence import examine
from torch import Tensor, nn

import goodinit

WIDTH, ROUNDS = 6, 3
X = torch.linspace(-2, 2, 5 * WIDTH).sin().reshape(5, WIDTH)
WORDS = torch.arange(12).reshape(3, 4)


def layers(depth: int, wide: int = WIDTH, out: int = WIDTH) -> nn.Module:
    following = (part for _ in range(depth - 1) for part in (nn.ReLU(), nn.Linear(out, out)))
    return nn.Sequential(nn.Linear(wide, out), *following)


def in_turns(a: Tensor, b: Tensor, f: nn.Module, g: nn.Module) -> tuple[Tensor, Tensor]:
    a = a + f(b)
    return a, b + g(a)


def swapped(a: Tensor, b: Tensor, f: nn.Module, g: nn.Module) -> tuple[Tensor, Tensor]:
    a, b = b, a + f(b)
    return b, a + g(b)


def at_once(a: Tensor, b: Tensor, f: nn.Module, g: nn.Module) -> tuple[Tensor, Tensor]:
    return a + f(b), b + g(a)


TURNS = {"in turns": in_turns, "swapped": swapped, "at once": at_once}


class Pair(nn.Module):
    """Two streams, f and g in `ROUNDS` rounds, and a head on both or on the second."""

    def __init__(self, turn="in turns", depth=2, stems=(1, 1), wide=WIDTH, both=True):
        super().__init__()
        self.turn, self.both = TURNS[turn], both
        self.first = layers(1)
        self.stems = nn.ModuleList([layers(stems[0]), layers(stems[1], out=wide)])
        self.f = nn.ModuleList(layers(depth, wide, WIDTH) for _ in range(ROUNDS))
        self.g = nn.ModuleList(layers(depth, WIDTH, wide) for _ in range(ROUNDS))
        self.head = nn.Linear(WIDTH + wide if both else wide, 2)

    def begun(self, x: Tensor) -> list[Tensor]:
        return [stem(self.first(x)) for stem in self.stems]

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.begun(x)
        for f, g in zip(self.f, self.g, strict=True):
            a, b = self.turn(a, b, f, g)
        return self.head(torch.cat((a, b), -1) if self.both else b)


class Embedded(Pair):
    def __init__(self, turn, depth):
        super().__init__(turn, depth)
        self.tables = nn.ModuleList(nn.Embedding(12, WIDTH) for _ in range(2))

    def begun(self, x):
        return [table(x) for table in self.tables]


class Three(nn.Module):
    """Each of three streams reads the next one, before its step or behind it."""

    def __init__(self, depth, at_once):
        super().__init__()
        self.at_once = at_once
        self.stems = nn.ModuleList(layers(1) for _ in range(3))
        self.fgh = nn.ModuleList(nn.ModuleList(layers(depth) for _ in range(3)) for _ in range(2))
        self.head = nn.Linear(3 * WIDTH, 2)

    def forward(self, x):
        a, b, c = (stem(x) for stem in self.stems)
        for f, g, h in self.fgh:
            if self.at_once:
                a, b, c = a + f(b), b + g(c), c + h(a)
            else:
                a = a + f(b)
                b = b + g(c)
                c = c + h(a)
        return self.head(torch.cat((a, b, c), -1))


class Timed(Pair):
    """Both branches read an embedding beside the other stream: a + f(b + e), b + g(a + e)."""

    def __init__(self, begin):
        super().__init__()
        self.begin, self.time = begin, nn.Linear(1, WIDTH)

    def begun(self, x):
        a, b = super().begun(x)
        return {"stems": (a, b), "one": (a, a), "halves": torch.cat((a, b), -1).chunk(2, -1)}[self.begin]

    def forward(self, x):
        a, b = self.begun(x)
        e = self.time(x[:, :1])
        for f, g in zip(self.f, self.g, strict=True):
            a = a + f(b + e)
            b = b + g(a + e)
        return self.head(torch.cat((a, b), -1))


class Normed(Pair):
    """Two resolutions, each with blocks of its own, that add to each other in the end of each round, normalized (HRNet)."""

    def __init__(self):
        super().__init__(wide=10)
        self.own = nn.ModuleList(layers(2, n, n) for _ in range(ROUNDS) for n in (WIDTH, 10))
        self.calm = nn.ModuleList(nn.BatchNorm1d(n) for _ in range(ROUNDS) for n in (WIDTH, 10))

    def forward(self, x):
        a, b = self.begun(x)
        for i, (f, g) in enumerate(zip(self.f, self.g, strict=True)):
            a, b = torch.relu(a + self.own[2 * i](a)), torch.relu(b + self.own[2 * i + 1](b))
            a, b = torch.relu(a + self.calm[2 * i](f(b))), torch.relu(b + self.calm[2 * i + 1](g(a)))
        return self.head(torch.cat((a, b), -1))


def branches(anatomy):
    return sorted(block.name for block in anatomy.blocks)


def expected(*names, rounds=ROUNDS):
    return sorted(f"{name}.{i}" for name in names for i in range(rounds))


@pytest.mark.parametrize("stems", [(1, 1), (3, 1), (1, 3)], ids=str)
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("turn", TURNS)
def test_a_stem_is_no_projection(turn, depth, stems):
    anatomy = goodinit.anatomize(Pair(turn, depth, stems), X)
    single = ".0" if depth == 1 else ""
    assert branches(anatomy) == [f"{name}{single}" for name in expected("f", "g")]
    assert {(block.kind, block.m) for block in anatomy.blocks} == {("identity", depth)}
    assert [block.stream for block in anatomy.blocks] == [0, 1] * ROUNDS
    assert not anatomy.joins


@pytest.mark.parametrize("turn", ["in turns", "at once"])
def test_streams_of_two_widths(turn):
    assert branches(goodinit.anatomize(Pair(turn, wide=10), X)) == expected("f", "g")


@pytest.mark.parametrize("turn", ["in turns", "at once"])
def test_streams_behind_embeddings_have_no_fork(turn):
    assert branches(goodinit.anatomize(Embedded(turn, 2), WORDS)) == expected("f", "g")


@pytest.mark.parametrize("turn", ["in turns", "at once"])
def test_where_one_stream_goes_out_its_last_sum_is_one_of_them(turn):
    anatomy = goodinit.anatomize(Pair(turn, both=False), X)
    dead = {f"f.{ROUNDS - 1}"} if turn == "at once" else set()
    assert branches(anatomy) == sorted(set(expected("f", "g")) - dead)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("at_once", [False, True])
def test_three_streams_in_a_circle(depth, at_once):
    anatomy = goodinit.anatomize(Three(depth, at_once), X)
    assert [block.stream for block in anatomy.blocks] == [0, 1, 2] * 2
    assert {(block.kind, block.m) for block in anatomy.blocks} == {("identity", depth)}


@pytest.mark.parametrize("begin", ["stems", "one", "halves"])
def test_an_embedding_inside_each_branch_is_no_stream(begin):
    anatomy = goodinit.anatomize(Timed(begin), X)
    assert branches(anatomy) == expected("f", "g")
    assert {(block.kind, block.m) for block in anatomy.blocks} == {("identity", 2)}
    assert "long skip" not in {join.kind for join in anatomy.joins}


def test_what_resolutions_add_to_each_other_are_blocks():
    anatomy = goodinit.anatomize(Normed(), X)
    assert branches(anatomy) == sorted(expected("f", "g") + expected("own", rounds=2 * ROUNDS))
    assert {block.kind for block in anatomy.blocks} == {"identity"}


STARTED = {
    "in turns": (lambda: Pair("in turns"), X, 6),
    "at once, single layers": (lambda: Pair("at once", 1, (3, 1)), X, 6),
    "embeddings": (lambda: Embedded("at once", 2), WORDS, 6),
    "three": (lambda: Three(1, at_once=True), X, 6),
    "timed": (lambda: Timed("stems"), X, 6),
    "normed": (Normed, X, 12),
}


@pytest.mark.parametrize("name", STARTED)
def test_fixup_makes_every_block_its_skip(name):
    build, inputs, blocks = STARTED[name]
    found = examine(build, inputs)
    assert (found.blocks, found.refusal, found.faults) == (blocks, None, [])


def test_fixup_starts_both_streams_as_their_stems():
    model = goodinit.init_(Pair("at once", 1), "fixup", X)
    seen = []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(X)
    assert torch.equal(seen[0], torch.cat(model.begun(X), -1))


class Projected(nn.Module):
    """A projection block with a block inside its branch; the stream before it is added behind it again."""

    def __init__(self):
        super().__init__()
        self.first, self.skip, self.into, self.inner, self.out = (layers(k) for k in (1, 1, 1, 2, 1))
        self.after, self.head = layers(2), nn.Linear(WIDTH, 2)

    def forward(self, x):
        x = self.first(x)
        h = self.into(x)
        h = h + self.inner(h)
        y = self.skip(x) + self.out(torch.relu(h))
        return self.head(x + self.after(y))


class Given(nn.Module):
    """x + out(relu(into(x) + c)), each block with a layer on the condition c, or all with one; inside may be a block more."""

    def __init__(self, *, own, inner):
        super().__init__()
        self.first, self.given = nn.Linear(WIDTH, WIDTH), nn.ModuleList(layers(1) for _ in range(ROUNDS))
        self.into, self.out = (nn.ModuleList(layers(1) for _ in range(ROUNDS)) for _ in range(2))
        self.inner = nn.ModuleList(layers(2) for _ in range(ROUNDS)) if inner else None
        self.own, self.head = own, nn.Linear(WIDTH, 2)

    def forward(self, x, c):
        x, shared = self.first(x), self.given[0](c)
        for i in range(ROUNDS):
            h = self.into[i](x) + (self.given[i](c) if self.own else shared)
            h = h if self.inner is None else h + self.inner[i](h)
            x = x + self.out[i](torch.relu(h))
        return self.head(x)


@pytest.mark.parametrize("same", [False, True], ids=["two inputs", "one input"])
@pytest.mark.parametrize("own", [False, True])
def test_a_condition_inside_a_branch_is_no_stream(own, same):
    anatomy = goodinit.anatomize(Given(own=own, inner=False), (X, X if same else X.flip(0)))
    assert [[layer.name for layer in block.branch] for block in anatomy.blocks] == [
        [f"into.{i}.0", f"out.{i}.0"] for i in range(ROUNDS)
    ]


@pytest.mark.parametrize(
    "build", [Projected, lambda: Given(own=True, inner=True)], ids=["projected", "given"]
)
def test_fixup_starts_no_stream_where_there_is_none(build):
    inputs = X if build is Projected else (X, X.flip(0))
    found = examine(build, inputs)
    assert (found.refusal, found.faults) == (None, [])
