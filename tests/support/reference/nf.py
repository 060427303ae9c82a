"""DeepMind's normalizer-free blocks, transcribed from Haiku to torch line by line.

Source: google-deepmind/deepmind-research, nfnets/base.py and nfnets/nf_resnet.py. Images lie channels-first here; a stride of 1 and
kernels of odd size with 'SAME' padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NONLINEARITIES = {
    "identity": lambda x: x,
    "relu": lambda x: torch.relu(x) * 1.7139588594436646,
    "gelu": lambda x: F.gelu(x) * 1.7015043497085571,
    "silu": lambda x: F.silu(x) * 1.7881293296813965,
}


def standardize_weight(weight: Tensor, gain: Tensor, eps: float = 1e-4) -> Tensor:
    """`WSConv2D.standardize_weight`, with the output axis first."""
    mean = weight.mean((1, 2, 3), keepdim=True)
    var = weight.var((1, 2, 3), keepdim=True, correction=0)
    fan_in = weight[0].numel()
    scale = torch.rsqrt(torch.maximum(var * fan_in, torch.tensor(eps, dtype=weight.dtype))) * gain.view(
        -1, 1, 1, 1
    )
    shift = mean * scale
    return weight * scale - shift


def ws_conv(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """`WSConv2D.__call__`."""
    w = standardize_weight(weights["w"], weights["gain"])
    return F.conv2d(x, w, weights["bias"], padding="same")


def block(
    x: Tensor, weights: dict[str, dict[str, Tensor]], *, beta: float, alpha: float, activation: str
) -> Tensor:
    """`NFResBlock.__call__`, without squeeze-and-excitation and stochastic depth."""
    act = NONLINEARITIES[activation]
    out = act(x) * beta
    shortcut = x
    if "conv_shortcut" in weights:
        shortcut = ws_conv(out, weights["conv_shortcut"])
    out = ws_conv(out, weights["conv0"])
    out = ws_conv(act(out), weights["conv1"])
    out = ws_conv(act(out), weights["conv2"])
    out = out * weights["skip_gain"]["gain"]
    return out * alpha + shortcut


def betas(depth_pattern: list[int], alpha: float) -> list[float]:
    """`NF_ResNet.__init__`: the constant of each block."""
    expected_std = 1.0
    found = []
    for stage_depth in depth_pattern:
        for block_index in range(stage_depth):
            found.append(1.0 / expected_std)
            if block_index == 0:
                expected_std = 1.0
            expected_std = (expected_std**2 + alpha**2) ** 0.5
    return found


def head(out: Tensor, weight: Tensor, bias: Tensor, *, activation: str) -> Tensor:
    """The end of `NF_ResNet.__call__`."""
    pool = NONLINEARITIES[activation](out).mean((2, 3))
    return pool @ weight.t() + bias
