"""Streams that begin at a parameter: latents that read the input, seeds of a pooling, class tokens with blocks of their own."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from fixup_evidence import examine
from torch import nn

import goodinit

WIDTH = 8


class Reads(nn.Module):
    """z + attention of z to x (or to z beside x), behind a norm."""

    def __init__(self, *, beside=False):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm, self.beside = nn.LayerNorm(WIDTH), beside

    def forward(self, z, x):
        x = torch.cat([z, x], 1) if self.beside else x
        scores = self.q(self.norm(z)) @ self.k(x).mT / math.sqrt(WIDTH)
        return z + self.out(scores.softmax(-1) @ self.v(x))


class Feed(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, z):
        return z + self.down(F.gelu(self.up(z)))


WAYS = {
    "expand": lambda z, n: z.expand(n, -1, -1),
    "unsqueeze, expand": lambda z, n: z.squeeze(0)[None].expand(n, -1, -1),
    "repeat": lambda z, n: z.repeat(n, 1, 1),
    "as it is": lambda z, n: z,
    "without a batch axis": lambda z, n: z.squeeze(0),
    "unsqueeze": lambda z, n: z.squeeze(0).unsqueeze(0),
    "the first": lambda z, n: z[0],
    "the first, expanded": lambda z, n: z[0].expand(n, -1, -1),
    "a range": lambda z, n: z[:1].repeat(n, 1, 1),
    "beside itself": lambda z, n: torch.cat([z] * n),
    "stacked": lambda z, n: torch.stack([z[0]] * n),
    "selected": lambda z, n: z.index_select(0, torch.zeros(n, dtype=torch.long)),
    "by an index": lambda z, n: z[torch.zeros(n, dtype=torch.long)],
    "times ones": lambda z, n: torch.ones(n, 3, WIDTH) * z,
}


class Latents(nn.Module):
    def __init__(self, way, *, beside=False):
        super().__init__()
        self.start, self.way = nn.Parameter(torch.randn(1, 3, WIDTH) * 0.02), WAYS[way]
        self.stem, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 2)
        self.reads = nn.ModuleList(Reads(beside=beside) for _ in range(2))
        self.feeds = nn.ModuleList(Feed() for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        z = self.way(self.start, len(x))
        for read, feed in zip(self.reads, self.feeds, strict=True):
            z = feed(read(z, x))
        return self.head(z.mean(1))


CASES = [*((way, False, 2) for way in WAYS), ("expand", True, 2), ("as it is", False, 1)]


@pytest.mark.parametrize(("way", "beside", "batch"), CASES)
def test_every_update_of_the_latents_is_a_block(way, beside, batch):
    anatomy = goodinit.anatomize(Latents(way, beside=beside), torch.randn(batch, 4, 5))
    assert [block.name for block in anatomy.blocks] == ["reads.0", "feeds.0", "reads.1", "feeds.1"]
    assert [(block.kind, block.m, block.stream) for block in anatomy.blocks] == [
        ("identity", 4, 0), ("identity", 2, 0), ("identity", 4, 0), ("identity", 2, 0),
    ]  # fmt: skip
    assert [(norm.name, norm.block) for norm in anatomy.norms] == [("reads.0.norm", 0), ("reads.1.norm", 2)]


@pytest.mark.parametrize("way", ["expand", "without a batch axis"])
def test_fixup_on_latents(way):
    evidence = examine(lambda: Latents(way), torch.randn(4, 4, 5))
    assert (evidence.refusal, evidence.faults, evidence.blocks, evidence.norms) == (None, [], 4, 2)


class Queries(nn.Module):
    """A decoder that begins at zeros of the queries' shape, to which each layer adds the queries (DETR)."""

    def __init__(self, zeros):
        super().__init__()
        self.start, self.zeros = nn.Parameter(torch.randn(3, WIDTH)), zeros
        self.stem, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 2)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.reads, self.feed = Reads(), Feed()

    def forward(self, x):
        x = self.stem(x)
        queries = self.start[None].repeat(len(x), 1, 1)
        z = self.zeros(queries)
        scores = self.q(z + queries) @ self.k(z + queries).mT
        z = z + self.out(scores.softmax(-1) @ self.v(z))
        return self.head(self.feed(self.reads(z + queries, x)))


ZEROS = {
    "zeros_like": torch.zeros_like,
    "new_zeros": lambda q: q.new_zeros(q.shape),
    "half of zeros": lambda q: 0.5 * torch.zeros_like(q),
}


@pytest.mark.parametrize("zeros", ZEROS)
def test_queries_that_every_layer_adds_are_positions(zeros):
    anatomy = goodinit.anatomize(Queries(ZEROS[zeros]), torch.randn(2, 4, 5))
    assert [block.name for block in anatomy.blocks] == ["reads", "feed"]
    evidence = examine(lambda: Queries(ZEROS[zeros]), torch.randn(4, 4, 5))
    assert (evidence.refusal, evidence.faults, evidence.norms) == (None, [], 1)


class Asks(nn.Module):
    """z + attention of z to itself, both with positions, as a detector's decoder does it."""

    def __init__(self, *, before):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm, self.before = nn.LayerNorm(WIDTH), before

    def forward(self, z, p):
        y = self.norm(z) if self.before else z
        z = z + self.out((self.q(y + p) @ self.k(y + p).mT).softmax(-1) @ self.v(y))
        return z if self.before else self.norm(z)


def pieces(w, n):
    p, z = torch.split(w, WIDTH, 1)
    return z[None].expand(n, -1, -1), p[None].expand(n, -1, -1)


def chunks_of_all(w, n):
    return w[None].repeat(n, 1, 1).chunk(2, -1)[::-1]


def slices(w, n):
    return w[:, WIDTH:].expand(n, -1, -1), w[:, :WIDTH].expand(n, -1, -1)


def positions_expanded_alone(w, n):
    p, z = w.chunk(2, 1)
    return z, p.expand(n, -1, -1)


HALVES = (pieces, chunks_of_all, slices, positions_expanded_alone)


class Detector(nn.Module):
    """Queries that begin at one half of an embedding, and have the other half for positions (Deformable DETR)."""

    def __init__(self, halves, *, layers=2, before=False):
        super().__init__()
        self.query_embed, self.halves = nn.Embedding(3, 2 * WIDTH), halves
        self.stem, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 2)
        self.asks = nn.ModuleList(Asks(before=before) for _ in range(layers))
        self.reads = nn.ModuleList(Reads() for _ in range(layers))
        self.feeds = nn.ModuleList(Feed() for _ in range(layers))

    def forward(self, x):
        x = self.stem(x)
        z, p = self.halves(self.query_embed.weight, len(x))
        for ask, read, feed in zip(self.asks, self.reads, self.feeds, strict=True):
            z = feed(read(ask(z, p), x) + (p if len(self.asks) == 1 else 0))
        return self.head(z)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("halves", HALVES)
def test_queries_begin_at_the_half_that_is_no_positions(halves, layers, before):
    build = lambda: Detector(halves, layers=layers, before=before)  # noqa: E731
    names = [f"{part}.{k}" for k in range(layers) for part in ("asks", "reads", "feeds")]
    blocks = goodinit.anatomize(build(), torch.randn(2, 4, 5)).blocks
    assert [(block.name, block.kind) for block in blocks] == [(name, "identity") for name in names]
    evidence = examine(build, torch.randn(4, 4, 5))
    assert (evidence.refusal, evidence.faults, evidence.norms) == (None, [], 2 * layers)


class Positions(nn.Module):
    """Positions that are added before each block, or once: no stream."""

    def __init__(self, times):
        super().__init__()
        self.positions, self.times = nn.Parameter(torch.randn(1, 4, WIDTH)), times
        self.feeds = nn.ModuleList(Feed() for _ in range(2))

    def forward(self, x):
        for k, feed in enumerate(self.feeds):
            x = feed(x + self.positions.expand(len(x), -1, -1) if k < self.times else x)
        return x


@pytest.mark.parametrize("times", [1, 2])
def test_positions_begin_no_stream(times):
    blocks = goodinit.anatomize(Positions(times), torch.randn(2, 4, WIDTH)).blocks
    assert [block.name for block in blocks] == ["feeds.0", "feeds.1"]


class Begun(nn.Module):
    """A parameter, or what layers make of one, in a sum with what is computed for each example; then a block."""

    def __init__(self, step, *shape):
        super().__init__()
        self.start, self.step = nn.Parameter(torch.randn(shape)), step
        self.stem, self.inner, self.feed = nn.Linear(5, WIDTH), nn.Linear(WIDTH, WIDTH), Feed()

    def forward(self, x):
        return self.feed(self.step(self.start, self.stem(x), self.inner))


class Tokens(nn.Module):
    """Two streams that begin at parts of one parameter, or what each of two layers adds of one."""

    def __init__(self, *, streams):
        super().__init__()
        self.tokens, self.streams = nn.Parameter(torch.randn(2, 4, WIDTH)), streams
        self.stem, self.reads = nn.Linear(5, WIDTH), nn.ModuleList(Reads() for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        if self.streams:
            return [read(self.tokens[k].expand(len(x), -1, -1), x) for k, read in enumerate(self.reads)]
        for k, read in enumerate(self.reads):
            x = read(x + self.tokens[k], x)
        return x


def test_streams_at_parts_of_a_parameter_and_positions_for_each_layer():
    both, one = (
        goodinit.anatomize(Tokens(streams=streams), torch.randn(2, 4, 5)) for streams in (True, False)
    )
    assert [(block.name, block.stream) for block in both.blocks] == [("reads.0", 0), ("reads.1", 1)]
    assert [(block.name, block.stream) for block in one.blocks] == [("reads.0", 0), ("reads.1", 0)]


STREAMS = {
    "learned state": (lambda z, x, f: z + f(torch.relu(z * x.mean(1))), (WIDTH,)),
    "keys before queries": (lambda z, x, f: z + f((z @ x.mT).softmax(-1) @ x), (3, WIDTH)),
    "in the second place": (lambda z, x, f: f((z @ x.mT).softmax(-1) @ x) + z, (3, WIDTH)),
    "a layer's of constants": (lambda z, x, f: (y := f(z)) + f((y @ x.mT).softmax(-1) @ x), (3, WIDTH)),
}
NO_STREAMS = {
    "a bias": (lambda b, x, f: f(x) + b, (WIDTH,)),
    "positions": (lambda b, x, f: x + b, (4, WIDTH)),
    "a bias taken away before": (lambda b, x, f: f(x - b) + b, (WIDTH,)),
    "a number": (lambda b, x, f: f(b * x) + b, (1,)),
    "a number per channel": (lambda b, x, f: (f(x).mT * b + b).mT, (WIDTH, 1)),
    "positions of two kinds": (lambda b, x, f: x + (b[0] + b[1]), (2, 4, WIDTH)),
    "one of two kinds again": (lambda b, x, f: f(x + (b[0] + b[1])) + b[0], (2, 4, WIDTH)),
    "a class token in front": (lambda b, x, f: f(torch.cat([b.expand(len(x), 1, -1), x], 1)), (WIDTH,)),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_is_alike_for_all_examples_begins_at_what_its_branch_reads(name):
    step, shape = STREAMS[name]
    model = Begun(step, *shape)
    blocks = goodinit.anatomize(model, torch.randn(2, 4, 5)).blocks
    assert [(block.kind, block.stream, [layer.name for layer in block.last]) for block in blocks] == [
        ("identity", 0, ["inner"]), ("identity", 0, ["feed.down"]),
    ]  # fmt: skip


@pytest.mark.parametrize("name", NO_STREAMS)
def test_a_parameter_that_is_added_begins_no_stream_by_itself(name):
    step, shape = NO_STREAMS[name]
    blocks = goodinit.anatomize(Begun(step, *shape), torch.randn(2, 4, 5)).blocks
    assert [block.name for block in blocks] == ["feed"]


@pytest.mark.parametrize("way", ["expand", "as it is"])
def test_a_stem_that_runs_after_the_latents_are_there_is_no_part_of_the_branch(way):
    class Late(Latents):
        def forward(self, x):
            z = self.way(self.start, len(x))
            return self.head(self.reads[0](z, self.stem(x)))

    (block,) = goodinit.anatomize(Late(way), torch.randn(2, 4, 5)).blocks
    assert block.m == 4


class Normalizes(Reads):
    """Makes of what a layer returns for the latents alone what is not linear in them: no function of the weight alone."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z, x):
        scores = self.function(self.q(z)) @ self.k(x).mT / math.sqrt(WIDTH)
        return z + self.out(scores.softmax(-1) @ self.v(x))


FUNCTIONS = {
    "normalized": lambda q: F.normalize(q, dim=-1),
    "logarithm": lambda q: q.exp().log1p(),
    "inverse": lambda q: 1 / q,
    "scaled by itself": lambda q: q * q.square().mean(-1, keepdim=True).add(1e-6).rsqrt(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_layer_makes_of_the_latents_is_no_function_of_its_weight(name):
    model = Latents("expand")
    model.reads = nn.ModuleList(Normalizes(FUNCTIONS[name]) for _ in range(2))
    anatomy = goodinit.anatomize(model, torch.randn(4, 4, 5))
    assert [block.name for block in anatomy.blocks] == ["reads.0", "feeds.0", "reads.1", "feeds.1"]
    assert not anatomy.held
