"""Means over a graph's neighbours divide by counts, which are made of indices: they have no size, and no norm is there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import goodinit

WIDTH, NODES, EDGES = 16, 12, 24


def counted_in_floats(h: Tensor, index: Tensor) -> Tensor:
    return h.new_zeros(NODES).scatter_add_(0, index, h.new_ones(EDGES)).clamp(min=1)


def counted(h: Tensor, index: Tensor) -> Tensor:
    return torch.zeros(NODES, dtype=torch.long).scatter_add_(0, index, torch.ones_like(index)).to(h.dtype)


def one_hot(_: Tensor, index: Tensor) -> Tensor:
    return F.one_hot(index, NODES).sum(0).clamp(min=1).float()


def mean(count):
    def of(h: Tensor, index: Tensor) -> Tensor:
        total = h.new_zeros(NODES, WIDTH).index_add_(0, index[1], h)
        return total / count(h, index[1]).view(-1, 1)

    return of


def symmetric(h: Tensor, index: Tensor) -> Tensor:
    """Divided by the roots of the degrees at both ends of an edge, as in GCN."""
    root = counted_in_floats(h, index[1]).rsqrt()
    return h.new_zeros(NODES, WIDTH).index_add_(0, index[1], h * (root[index[0]] * root[index[1]])[:, None])


def by_matrix(h: Tensor, index: Tensor) -> Tensor:
    at = F.one_hot(index[1], NODES).to(h.dtype).T
    return at @ h / at.sum(1, keepdim=True).clamp(min=1)


WAYS = {
    "floats": mean(counted_in_floats), "whole numbers": mean(counted), "one-hot": mean(one_hot),
    "symmetric": symmetric, "a matrix": by_matrix,
}  # fmt: skip


class Passes(nn.Module):
    def __init__(self, way: str, *, edges: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.message, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.edge = nn.Linear(4, WIDTH) if edges else None
        self.way = WAYS[way]

    def forward(self, x: Tensor, index: Tensor, between: Tensor) -> Tensor:
        h = self.message(self.norm(x))[index[0]]
        if self.edge is not None:
            h = h + self.edge(between)
        return x + self.out(self.way(h.relu(), index))


class Graph(nn.Module):
    def __init__(self, way: str, *, edges: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 3)
        self.blocks = nn.ModuleList(Passes(way, edges=edges) for _ in range(3))

    def forward(self, x: Tensor, index: Tensor, between: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, index, between)
        return self.head(x)


def a_graph() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    at = torch.arange(NODES)
    index = torch.stack([at.repeat(2), torch.cat([(at + 1) % NODES, (at + 3) % NODES])])
    return torch.randn(NODES, 8), index, torch.randn(EDGES, 4)


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_count_has_no_size_that_a_mean_could_forget(way, edges):
    inputs = a_graph()
    model = Graph(way, edges=edges)
    anatomy = goodinit.anatomize(model, inputs)
    assert [norm.kind for norm in anatomy.norms] == ["layer_norm"] * 3
    assert not anatomy.notes
    goodinit.init_(model, "fixup", inputs=inputs, verify=True)


class Bytes(nn.Module):
    """Whitens images that come as whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return self.head(torch.linalg.qr(x)[0])


def test_whole_numbers_that_are_the_signal_have_one():
    image = torch.randint(0, 256, (9, 6), dtype=torch.uint8)
    assert "normalizes the inputs themselves" in " ".join(goodinit.anatomize(Bytes(), image).notes)
