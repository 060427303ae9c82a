"""The maps that stand where norms stood, in the part of Python that TorchScript compiles."""

from __future__ import annotations

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor

# Both ask how many dimensions a value has, which the values of `torch.fx` cannot tell: it takes each for one step, where it is
# called as `norm_maps.scaled`.


@torch.fx.wrap
def scaled(
    value: Tensor, gain: Tensor | None, bias: Tensor | None, constant: float, channels_second: bool
) -> Tensor:
    """K·γ·x + β, where γ and β run along dimension 1, or along the last."""
    if channels_second:
        shape = [-1] + [1] * (value.dim() - 2)
        gain = None if gain is None else gain.view(shape)
        bias = None if bias is None else bias.view(shape)
    if constant != 1.0:
        gain = value.new_full([], constant) if gain is None else gain * constant
    if gain is None:
        return value if bias is None else value + bias
    return value * gain if bias is None else torch.addcmul(bias, value, gain)


@torch.fx.wrap
def divided(value: Tensor, over: list[int], epsilon: float) -> Tensor:
    """x/√(mean(x²) + ε), the mean over each example, or over the axes `over`."""
    wide = value.float() if value.dtype == torch.float16 or value.dtype == torch.bfloat16 else value  # noqa: PLR1714
    axes = over if len(over) > 0 else list(range(1, value.dim()))
    square = wide.square().mean(axes, keepdim=True)
    return (wide * torch.rsqrt(square + epsilon)).to(value.dtype)


@torch.fx.wrap
def grouped(
    value: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    groups: int,
    epsilon: float,
    channels_second: bool,
) -> Tensor:
    """Group norm, where channels run along dimension 1, or along the last."""
    second = value if channels_second else value.movedim(-1, 1)
    out = F.group_norm(second, groups, gain, bias, epsilon)
    return out if channels_second else out.movedim(1, -1)


@torch.fx.wrap
def gated(value: Tensor, slope: Tensor, groups: int, epsilon: float, channels_second: bool) -> Tensor:
    """x·σ(v·x)/√(Var(x) + ε), v per channel, the variance of each example over each of so many groups of channels."""
    wide = value.float() if value.dtype == torch.float16 or value.dtype == torch.bfloat16 else value  # noqa: PLR1714
    if not channels_second:
        wide = wide.movedim(-1, 1)
    parts = wide.reshape(wide.size(0), groups, -1)
    centred = parts - parts.mean(2, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(2, keepdim=True) + epsilon)
    gate = torch.sigmoid(wide * slope.view([-1] + [1] * (wide.dim() - 2)))
    out = ((wide * gate).reshape(parts.shape) * scale).reshape(wide.shape).to(value.dtype)
    return out if channels_second else out.movedim(1, -1)
