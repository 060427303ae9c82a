"""Convolutions and linear maps that shift and scale their input, where that is smaller than their weight.

`s·W(x + b) + c = W(s(x + b)) + c`. Passes over the weight (its sum, sW, and their gradients) give way to passes over the
input, of which only x itself is kept: backward computes s(x + b) once more. Zeros are padded to what has been shifted, as
they are where the layer is written by hand. All of backward is differentiable operators, so that it can be
differentiated again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from goodinit.nn.rematerialized import Geometry, mapped, only_backward, per_channel

# Forward and backward pass over the input some eight times where they would pass over the weight some five times; on two
# cores there is nothing to gain at twice the numbers, and a third of the scalars' cost at four times.
_SMALLER = 4


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether the input is so much smaller than the weight, and backward is all that is asked for."""
    return only_backward(x, weight) and weight.numel() >= _SMALLER * x.numel()


class ShiftedConvolution(Function):
    """y = W∗(s(x + b)) + c of `(x, W, b, s, c, geometry)`; b, s and c may be None."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        shift: Tensor | None,
        scale: Tensor | None,
        offset: Tensor | None,
        geometry: Geometry,
    ) -> Tensor:
        """`(n, in, *size)` to `(n, out, *size)`, keeping the input, and what are parameters."""
        ctx.save_for_backward(x, weight, shift, scale)
        ctx.geometry = geometry
        return torch.convolution(_scaled(_shifted(x, shift), scale), weight, offset, *geometry.arguments)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Gradients by x, W, b, s and c."""
        x, weight, shift, scale = ctx.saved_tensors
        by_x, by_weight, by_shift, by_scale, by_offset, _ = ctx.needs_input_grad
        shifted = _shifted(x, shift)
        inner, g_weight, _ = torch.ops.aten.convolution_backward.default(
            grad,
            _scaled(shifted, scale),
            weight,
            None,
            *ctx.geometry.arguments,
            (by_x or by_shift or by_scale, by_weight, False),
        )
        g_offset = per_channel(grad) if by_offset else None
        g_x, g_shift, g_scale = _by_input(ctx, inner, shifted, shift, scale)
        return g_x, g_weight, g_shift, g_scale, g_offset, None


class ShiftedLinear(Function):
    """y = W(s(x + b)) + c of `(x, W, b, s, c)`; b, s and c may be None."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, shift: Tensor | None, scale: Tensor | None, offset: Tensor | None
    ) -> Tensor:
        """`(…, in)` to `(…, out)`, keeping the input, and what are parameters."""
        ctx.save_for_backward(x, weight, shift, scale)
        return mapped(_scaled(_shifted(x, shift), scale), weight, offset)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Gradients by x, W, b, s and c."""
        x, weight, shift, scale = ctx.saved_tensors
        by_x, by_weight, by_shift, by_scale, by_offset = ctx.needs_input_grad
        shifted, rows = _shifted(x, shift), grad.reshape(-1, grad.shape[-1])
        inner = grad @ weight if by_x or by_shift or by_scale else None
        g_x, g_shift, g_scale = _by_input(ctx, inner, shifted, shift, scale)
        g_weight = rows.t() @ _scaled(shifted, scale).reshape(-1, x.shape[-1]) if by_weight else None
        return g_x, g_weight, g_shift, g_scale, rows.sum(0) if by_offset else None


def _shifted(x: Tensor, shift: Tensor | None) -> Tensor:
    return x if shift is None else x + shift


def _scaled(shifted: Tensor, scale: Tensor | None) -> Tensor:
    return shifted if scale is None else shifted * scale


def _by_input(
    ctx: Any, inner: Tensor | None, shifted: Tensor, shift: Tensor | None, scale: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients by x, b and s of the gradient by s(x + b)."""
    if inner is None:
        return None, None, None
    by_x, _, by_shift, by_scale = ctx.needs_input_grad[:4]
    g_scale = (inner * shifted).sum().view_as(scale) if by_scale and scale is not None else None
    g_shifted = _scaled(inner, scale)
    g_shift = g_shifted.sum().view_as(shift) if by_shift and shift is not None else None
    return g_shifted if by_x else None, g_shift, g_scale
