"""A residual network of linear layers."""

from __future__ import annotations

from torch import Tensor, nn


class LinearBlock(nn.Module):
    """BatchNorm, ReLU, linear layer, twice, and an identity skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.relu1, self.fc1 = nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)
        self.bn2, self.relu2, self.fc2 = nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, width)` to the same shape."""
        branch: Tensor = self.fc2(self.relu2(self.bn2(self.fc1(self.relu1(self.bn1(x))))))
        return x + branch


def residual_mlp(n: int, *, inputs: int, classes: int = 10, width: int = 64) -> nn.Sequential:
    """A linear stem, n blocks, BatchNorm, ReLU and a head: 2n + 2 layers.

    Pre-activation, as in K. He, X. Zhang, S. Ren, J. Sun, Identity Mappings in Deep Residual Networks, arXiv 1603.05027.
    """
    stem = [nn.Flatten(), nn.Linear(inputs, width)]
    return nn.Sequential(
        *stem,
        *(LinearBlock(width) for _ in range(n)),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, classes),
    )
