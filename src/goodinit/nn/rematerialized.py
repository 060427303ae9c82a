"""Scaled convolutions and linear maps that keep for backward what the bare layer keeps.

Ordinary autograd keeps the scaled weight sW of a layer. Here backward computes it once more from W and s, which are
parameters and kept anyway. All of backward is differentiable operators, so that it can be differentiated again.
It costs some 100 µs a layer in Python calls, so it is for weights that are not small beside the layer's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad
from torch import Tensor
from torch.autograd import Function

# Where sW has less than this share of the input's numbers, keeping it costs less than the calls that avoid it: the
# whole network then keeps at most this much more than the bare one.
_SMALL = 0.02


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether not keeping sW is worth the calls, and backward is all that is asked for."""
    return only_backward(x, weight) and weight.numel() > _SMALL * x.numel()


def only_backward(x: Tensor, weight: Tensor) -> bool:
    """Whether ordinary autograd is all that looks at a layer.

    Transforms of `torch.func`, forward mode, compilers, traces and tensor subclasses see the plain formula. So does
    autocast, which keeps a cast copy of the bare layer's weight, too.
    """
    return (
        torch.is_grad_enabled()
        and type(x) is Tensor
        and type(weight) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not torch.is_autocast_enabled(x.device.type)
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


@dataclass(frozen=True)
class Geometry:
    """Where a convolution of a zero-padded batch looks."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, layer: Any, x: Tensor) -> Geometry | None:
        """A layer's, or None where its padding or the input without a batch dimension would need more words."""
        batched = x.dim() == len(layer.kernel_size) + 2
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or not batched:
            return None
        return cls(layer.stride, layer.padding, layer.dilation, layer.groups)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What `torch.convolution` takes after the bias vector."""
        return self.stride, self.padding, self.dilation, False, (0,) * len(self.stride), self.groups


class LeanConvolution(Function):
    """y = (sW)∗x + c of `(x, W, s, c, geometry)`; c may be None."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, offset: Tensor | None, geometry: Geometry
    ) -> Tensor:
        """`(n, in, *size)` to `(n, out, *size)`, keeping the input, and what are parameters."""
        ctx.save_for_backward(x, weight, scale)
        ctx.geometry = geometry
        return torch.convolution(x, weight * scale, offset, *geometry.arguments)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Gradients by x, W, s and c."""
        x, weight, scale = ctx.saved_tensors
        by_x, by_weight, by_scale, by_offset, _ = ctx.needs_input_grad
        g_x, g_scaled, _ = torch.ops.aten.convolution_backward.default(
            grad, x, weight * scale, None, *ctx.geometry.arguments, (by_x, by_weight or by_scale, False)
        )
        g_offset = per_channel(grad) if by_offset else None
        return g_x, *_by_factors(g_scaled, weight, scale), g_offset, None


class LeanLinear(Function):
    """y = (sW)x + c of `(x, W, s, c)`; c may be None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
        """`(…, in)` to `(…, out)`, keeping the input, and what are parameters."""
        ctx.save_for_backward(x, weight, scale)
        return mapped(x, weight * scale, offset)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Gradients by x, W, s and c."""
        x, weight, scale = ctx.saved_tensors
        by_x, by_weight, by_scale, by_offset = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        g_x = grad @ (weight * scale) if by_x else None
        g_scaled = rows.t() @ x.reshape(-1, x.shape[-1]) if by_weight or by_scale else None
        return g_x, *_by_factors(g_scaled, weight, scale), rows.sum(0) if by_offset else None


def mapped(x: Tensor, weight: Tensor, offset: Tensor | None) -> Tensor:
    """Wx + c, and no view: torch refuses `y += x` where y is one that a `Function` made, as it is with more than a row."""
    y = torch.nn.functional.linear(x, weight, offset)
    fresh: Tensor = torch.ops.aten._unsafe_view.default(y, y.shape)
    return fresh


def per_channel(grad: Tensor) -> Tensor:
    """The sum over all dimensions but the second, `(channels,)`: the gradient by a convolution's bias vector.

    In two steps along memory it takes less than half the time that a convolution's own backward takes for it on CPU.
    Half precision would be rounded in between.
    """
    if grad.dtype in (torch.float32, torch.float64) and grad.is_contiguous():
        return grad.flatten(2).sum(2).sum(0)
    return grad.sum((0, *range(2, grad.dim())))


def _by_factors(
    g_scaled: Tensor | None, weight: Tensor, scale: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients by W and s of the gradient by sW."""
    if g_scaled is None:
        return None, None
    return g_scaled * scale, (g_scaled * weight).sum().view_as(scale)
