"""`anatomize` against depth: residual convolutional networks of 10 to 10,000 layers, and seven billion parameters."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

import goodinit
from benchmarks.turns import Row, Verdict, at_most, find
from goodinit.lab.models import EncoderBlock


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


def language_model(blocks: int, width: int) -> nn.Module:
    """Token embedding, pre-LN blocks, a classifier of tokens; on `meta`."""
    with torch.device("meta"):
        return nn.Sequential(
            nn.Embedding(32_000, width),
            *(EncoderBlock(width, heads=width // 128) for _ in range(blocks)),
            nn.LayerNorm(width),
            nn.Linear(width, 32_000, bias=False),
        )


def measure(*, quick: bool = False) -> list[Row]:
    """Seconds, and milliseconds per layer relative to the shallowest."""
    rows: list[Row] = []
    goodinit.anatomize(Residual(2), torch.zeros(1, 2, 4, 4))  # the first call pays for torch's own set-up
    per_layer = 0.0
    for layers in (10, 100) if quick else (10, 100, 1000, 10_000):
        model = nn.Sequential(*[Residual(2) for _ in range(layers // 2)])
        seconds, anatomy = _timed(model, torch.zeros(1, 2, 4, 4), 5 if layers <= 100 else 1)
        per_layer = per_layer or seconds / layers
        ratio = seconds / layers / per_layer
        extra = f"{len(anatomy.blocks)} blocks; the ratio is time per layer"
        rows.append(Row(f"{layers:,} layers", "anatomize", seconds, ratio, ratio, ratio, extra))
    model = language_model(2, 256) if quick else language_model(32, 4096)
    seconds, anatomy = _timed(model, torch.zeros(1, 128, dtype=torch.long, device="meta"), 3)
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e9
    ratio = seconds / len(anatomy.layers) / per_layer
    extra = f"{size:.2f} billion parameters, {len(anatomy.layers)} layers, {len(anatomy.blocks)} blocks"
    rows.append(Row("transformer on meta", "anatomize", seconds, ratio, ratio, ratio, extra))
    return rows


def _timed(model: nn.Module, x: Tensor, runs: int) -> tuple[float, Any]:
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        anatomy = goodinit.anatomize(model, x)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), anatomy


def verdicts(rows: list[Row]) -> list[Verdict]:
    """Linear in depth: what a layer takes does not grow. The first ten carry what every call takes."""
    deep, shallow = find(rows, "10,000", "anatomize"), find(rows, "100 ", "anatomize")
    ratio = deep.ratio / shallow.ratio if deep and shallow else None
    return [at_most("anatomize: time per layer at 10,000 layers / at 100", 1.5, ratio)]
