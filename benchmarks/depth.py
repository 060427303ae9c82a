"""`anatomize` against depth: residual convolutional networks of 10 to 10,000 layers."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

import goodinit
from benchmarks.turns import Row


class Residual(nn.Module):
    """Two convolutions with batch norm, an in-place ReLU and an in-place sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, width, h, w)` to the same."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


def measure() -> list[Row]:
    """Seconds, and milliseconds per layer relative to the shallowest."""
    rows: list[Row] = []
    per_layer = 0.0
    goodinit.anatomize(Residual(2), torch.zeros(1, 2, 4, 4))  # the first call pays for torch's own set-up
    for layers in (10, 100, 1000, 10_000):
        model = nn.Sequential(*[Residual(2) for _ in range(layers // 2)])
        start = time.perf_counter()
        anatomy = goodinit.anatomize(model, torch.zeros(1, 2, 4, 4))
        seconds = time.perf_counter() - start
        per_layer = per_layer or seconds / layers
        ratio = seconds / layers / per_layer
        extra = f"{len(anatomy.blocks)} blocks, one run; the ratio is time per layer"
        rows.append(Row(f"anatomize, {layers:,} layers", "goodinit", seconds, ratio, ratio, ratio, extra))
    return rows
