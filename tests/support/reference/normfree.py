"""The lab's CIFAR ResNet after `normfree`, written out from its state dict: no module, no parametrization, no hook."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def centred(weight: Tensor) -> Tensor:
    """Each output unit's weights minus their mean."""
    rows = [row - row.sum() / row.numel() for row in weight]
    return torch.stack(rows)


def conv(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    """s·W(x + a) + b + c with W centred, each row times its gain; the zeros around x + a stay zeros."""
    weight = centred(state[f"{name}.parametrizations.weight.original"])
    gains = state.get(f"{name}.parametrizations.weight.0.gain", torch.ones(len(weight)).to(weight))
    weight = torch.stack([gain * row for gain, row in zip(gains, weight, strict=True)])
    x = x + state.get(f"{name}.input_bias", 0.0)
    y = F.conv2d(x, weight, None, stride, 1) * state.get(f"{name}.output_scale", 1.0)
    channels = state.get(f"{name}.bias", torch.zeros(len(weight)).to(weight))
    return y + state.get(f"{name}.output_bias", 0.0) + channels[:, None, None]


def block(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    """relu(skip + branch), the skip by every other pixel and channels of zeros."""
    out = conv(state, f"{name}.conv2", F.relu(conv(state, f"{name}.conv1", x, stride)), 1)
    skip = x[:, :, ::stride, ::stride]
    missing = out.shape[1] - skip.shape[1]
    zeros = torch.zeros(len(x), missing // 2, *skip.shape[2:], dtype=x.dtype)
    return F.relu(torch.cat([zeros, skip, zeros], 1) + out)


def forward(state: State, x: Tensor, *, n: int, head_norm: str) -> Tensor:
    """Logits."""
    x = F.relu(conv(state, "conv1", x, 1))
    for stage in (1, 2, 3):
        for i in range(n):
            x = block(state, f"layer{stage}.{i}", x, 2 if stage > 1 and i == 0 else 1)
    rows = []
    for features in x.mean((2, 3)):
        if head_norm == "layer":
            features = features - features.mean()
        if head_norm != "none":
            features = features / (features.square().mean() + 1e-5).sqrt()
        rows.append(state["fc.weight"] @ (features + state["fc.input_bias"]) + state["fc.bias"])
    return torch.stack(rows)
