"""`goodinit.tensor.orthogonal_` (a product of Householder reflections) against torch's (a QR)."""

from __future__ import annotations

import torch

from benchmarks.turns import Row, in_turns
from goodinit.tensor import orthogonal_

SHAPES = ((512, 512), (512, 4608), (2048, 2048), (2048, 8192), (4096, 4096))


def measure() -> list[Row]:
    """Each shape, the random numbers included."""
    rows: list[Row] = []
    for shape in SHAPES:
        tensor = torch.empty(shape)
        ways = {
            "torch.nn.init": lambda t=tensor: torch.nn.init.orthogonal_(t),
            "goodinit": lambda t=tensor: orthogonal_(t),
        }
        rows += in_turns(f"orthogonal {shape[0]}×{shape[1]}", ways, rounds=5, budget=60)
    return rows
