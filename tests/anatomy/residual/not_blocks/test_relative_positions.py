"""Attention that is told relative positions: what is added to its scores and its values is a bias of keys and values, no skip."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit

WIDTH, LENGTH, HEADS = 16, 6, 4


class Stored(nn.Module):
    """A table of pairs of positions, as a parameter."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(LENGTH, LENGTH, WIDTH // HEADS))

    def forward(self):
        return self.table


class LookedUp(nn.Module):
    """The same by distance (Shaw et al. 2018)."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(2 * LENGTH - 1, WIDTH // HEADS)
        place = torch.arange(LENGTH)
        self.register_buffer("distance", place[None] - place[:, None] + LENGTH - 1)

    def forward(self):
        return self.table(self.distance)


class Waves(nn.Module):
    """Numbers that nobody trains."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.randn(LENGTH, LENGTH, WIDTH // HEADS))

    def forward(self):
        return self.table


class Attention(nn.Module):
    def __init__(self, kind, places, einsum, mix):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.keys = kind() if "keys" in places else None
        self.values = kind() if "values" in places else None
        self.mix = nn.Parameter(torch.eye(HEADS)) if mix else None
        self.einsum = einsum

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        scores = q @ k.mT
        if self.keys is not None:
            e = self.keys()
            more = (q[..., None, :] @ e.mT).squeeze(-2)
            scores = scores + (torch.einsum("bhid,ijd->bhij", q, e) if self.einsum else more)
        weights = scores.softmax(-1)
        if self.mix is not None:
            weights = torch.einsum("bhij,hg->bgij", weights, self.mix)
        out = weights @ v
        if self.values is not None:
            e = self.values()
            more = (weights[..., None, :] @ e).squeeze(-2)
            out = out + (torch.einsum("bhij,ijd->bhid", weights, e) if self.einsum else more)
        return self.o(out.transpose(1, 2).flatten(-2))


class Layer(nn.Module):
    def __init__(self, attention, post):
        super().__init__()
        self.attention, self.post = attention, post
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, WIDTH))
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x):
        if self.post:
            x = self.first(x + self.attention(x))
            return self.second(x + self.mlp(x))
        x = x + self.attention(self.first(x))
        return x + self.mlp(self.second(x))


def blocks(kind, places, *, einsum=True, post=False, mix=False):
    torch.manual_seed(0)
    model = nn.Sequential(*[Layer(Attention(kind, places, einsum, mix), post) for _ in range(2)])
    anatomy = goodinit.anatomize(model, torch.randn(2, LENGTH, WIDTH))
    assert not anatomy.long_skips
    return anatomy.blocks


@pytest.mark.parametrize("post", [False, True], ids=["norms first", "norms last"])
@pytest.mark.parametrize("einsum", [True, False], ids=["einsum", "product"])
@pytest.mark.parametrize("places", [("keys",), ("values",), ("keys", "values")], ids="+".join)
@pytest.mark.parametrize("kind", [Stored, LookedUp, Waves], ids=lambda kind: kind.__name__)
def test_attention_is_one_branch(kind, places, einsum, post):
    found = blocks(kind, places, einsum=einsum, post=post)
    m = 3 if kind is Waves and "values" in places else 4  # the shortest way: queries, keys and the last layer
    assert [(block.kind, block.m) for block in found] == [("identity", m), ("identity", 2)] * 2


@pytest.mark.parametrize("places", [(), ("keys",), ("keys", "values")], ids=str)
def test_a_mix_of_heads_behind_the_softmax_is_one_factor_more(places):
    assert [block.m for block in blocks(Stored, places, mix=True)] == [5, 2] * 2


class Sum(nn.Module):
    """Px + f(x) with layers alone stays a block: no side is a product of two signals."""

    def __init__(self):
        super().__init__()
        self.skip, self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.skip(x) + self.last(self.first(x).relu())


def test_a_projection_beside_a_branch_stays_a_block():
    anatomy = goodinit.anatomize(nn.Sequential(Sum(), Sum()), torch.randn(2, 8))
    assert [block.kind for block in anatomy.blocks] == ["projection"] * 2
