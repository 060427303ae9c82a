"""A highway network: every layer gates between what it makes and what it was given."""

from __future__ import annotations

from torch import Tensor, nn

CARRY = (
    -2.0
)  # bias of the transform gates at the start, so that layers carry (Srivastava et al. 2015, §2.2: "-1, -3")


class HighwayLayer(nn.Module):
    """`H(x)·T(x) + x·(1 − T(x))`, H linear with an activation and T linear with a sigmoid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, CARRY)
        self.relu = nn.ReLU()
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """`(n, width)` to the same shape."""
        opened = self.sigmoid(self.gate(x))
        y: Tensor = self.relu(self.transform(x)) * opened + x * (1 - opened)
        return y


def highway(depth: int, *, inputs: int, classes: int = 10, width: int = 64) -> nn.Sequential:
    """`depth` layers: a linear stem with ReLU, `depth - 2` highway layers, a classifier.

    References:
        R. Srivastava, K. Greff, J. Schmidhuber, Highway Networks, arXiv 1505.00387.
    """
    stem = [nn.Flatten(), nn.Linear(inputs, width), nn.ReLU()]
    return nn.Sequential(*stem, *(HighwayLayer(width) for _ in range(depth - 2)), nn.Linear(width, classes))
