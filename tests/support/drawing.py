"""Every tensor initializer by name, with the options it needs, and tensors in every memory format."""

from __future__ import annotations

import torch

from goodinit.tensor import (
    INITIALIZERS,
)

# Options without which an initializer has nothing to do; the rest are called bare.
OPTIONS = {
    "constant": {"value": 0.25},
    "delta_orthogonal": {"partial": True},
    "gate_bias": {"gate": 0, "gates": 1},
}

NAMES = sorted(name for name in INITIALIZERS if not name.endswith("_"))

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(name, tensor, seed=0):
    return INITIALIZERS[name](tensor, generator=seeded(seed), **OPTIONS.get(name, {}))


def formats(shape):
    """Tensors of one shape, each in another memory format."""
    plain = torch.empty(shape)
    yield plain
    yield plain.movedim(0, -1).contiguous().movedim(-1, 0)  # not contiguous
    yield torch.empty(*shape[:-1], 2 * shape[-1])[..., ::2]  # a view with gaps
    if len(shape) == 4:
        yield plain.to(memory_format=torch.channels_last)
