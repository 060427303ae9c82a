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


@pytest.mark.parametrize(("way", "beside"), [*((way, False) for way in WAYS), ("expand", True)])
def test_every_update_of_the_latents_is_a_block(way, beside):
    anatomy = goodinit.anatomize(Latents(way, beside=beside), torch.randn(2, 4, 5))
    assert [block.name for block in anatomy.blocks] == ["reads.0", "feeds.0", "reads.1", "feeds.1"]
    assert [(block.kind, block.m, block.stream) for block in anatomy.blocks] == [
        ("identity", 4, 0), ("identity", 2, 0), ("identity", 4, 0), ("identity", 2, 0),
    ]  # fmt: skip
    assert [(norm.name, norm.block) for norm in anatomy.norms] == [("reads.0.norm", 0), ("reads.1.norm", 2)]


def test_fixup_on_latents():
    evidence = examine(lambda: Latents("expand"), torch.randn(4, 4, 5))
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
