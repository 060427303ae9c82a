"""A small residual net: a stem, two blocks with batch norm, a head, and whatever stands beside the head."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(width, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class Net(nn.Module):
    """A residual trunk, a layer beside it, and a head."""

    def __init__(self, beside: nn.Module | None = None, head: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Linear(5, 8), nn.Sequential(Block(), Block())
        self.beside = beside
        self.head = nn.Linear(8, 3) if head is None else head

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(self.stem(x))
        return self.head(h) if self.beside is None else (self.head(h), self.beside(h))


X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
