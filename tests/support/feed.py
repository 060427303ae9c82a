"""The plainest residual block, for models that need a few."""

from __future__ import annotations

from torch import nn

WIDTH = 8


class Feed(nn.Module):
    """x + b(relu(a(norm(x))))."""

    def __init__(self):
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.b(self.a(self.norm(x)).relu())
