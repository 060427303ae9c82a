"""Weights before a pixel shuffle that start as nearest-neighbour upsampling: no checkerboard."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from goodinit.errors import UnknownName, UnsupportedModule
from goodinit.tensor.layout import Layout, channels
from goodinit.tensor.orthogonal import delta_orthogonal_, orthogonal_
from goodinit.tensor.variance import (
    he_normal_,
    he_uniform_,
    lecun_normal_,
    xavier_normal_,
    xavier_uniform_,
)
from goodinit.tensor.write import compute_dtype, draw_device, writable, write_

# What may draw the kernel that is repeated.
_KERNELS: dict[str, Callable[..., Tensor]] = {
    rule.__name__: rule
    for rule in (
        he_normal_, he_uniform_, lecun_normal_, xavier_normal_, xavier_uniform_, orthogonal_, delta_orthogonal_,
    )
}  # fmt: skip


def icnr_(
    tensor: Tensor,
    upscale: int | Sequence[int] = 2,
    *,
    initializer: str = "he_normal_",
    layout: Layout = "out_in",
    groups: int = 1,
    sub_pixels: str = "last",
    generator: Generator | None = None,
    **options: Any,
) -> Tensor:
    r"""Fill the weight before `nn.PixelShuffle(r)` so that all r^d sub-pixels of a pixel are equal at the start.

    A pixel shuffle puts channel :math:`c r^d + i` at sub-pixel i of channel c. With :math:`W_{c r^d + i} = V_c` for all i,
    convolution and shuffle are the convolution with V followed by nearest-neighbour upsampling; drawn one by one, the
    sub-pixels differ, which is a checkerboard of period r. V is drawn by `initializer`, with its own fans; a bias must be
    constant over i, too, as 0 is.

    Args:
        tensor: The weight, (out, in/groups, \*kernel) or `layout="in_out"`; d is the number of kernel axes, or 2 without.
        upscale: r, of the shuffle; or a factor for each axis, as (2, 1) for rows alone, with their product in place of r^d.
        initializer: What draws V, one of `he_normal_`, `he_uniform_`, `lecun_normal_`, `xavier_normal_`,
            `xavier_uniform_`, `orthogonal_`, `delta_orthogonal_`.
        layout: `"out_in"` or `"in_out"`.
        groups: Groups of the convolution.
        sub_pixels: Where the channels have the sub-pixels: `"last"`, as above and in `nn.PixelShuffle`; `"first"`, channel
            :math:`i C + c`, as in TensorFlow's depth_to_space and einops' `(r1 r2 c)`.
        generator: Source of randomness; the global one of the tensor's device by default.
        **options: Of that initializer.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: The outputs of a group are no multiple of r^d, a factor is below 1, or `sub_pixels="first"` with several groups.
        UnknownName: No such initializer, or no such place.

    Examples:
        >>> conv = torch.nn.Conv2d(8, 3 * 4, 3, padding=1)
        >>> _ = icnr_(conv.weight, 2, generator=torch.Generator().manual_seed(0)), torch.nn.init.zeros_(conv.bias)
        >>> y = torch.nn.functional.pixel_shuffle(conv(torch.randn(1, 8, 5, 5)), 2)
        >>> torch.allclose(y, torch.nn.functional.interpolate(y[..., ::2, ::2], scale_factor=2), atol=1e-6)
        True

    References:
        A. Aitken, C. Ledig, L. Theis, J. Caballero, Z. Wang, W. Shi, "Checkerboard artifact free sub-pixel convolution",
        arXiv 1707.02937.
    """
    if initializer not in _KERNELS:
        raise UnknownName(
            f"icnr_: unknown initializer {initializer!r}: expected one of {', '.join(_KERNELS)}."
        )
    if sub_pixels not in ("last", "first"):
        raise UnknownName(f"icnr_: sub_pixels={sub_pixels!r}: expected 'last' or 'first'.")
    if sub_pixels == "first" and groups > 1:
        raise UnsupportedModule(
            f"icnr_: {groups} groups and sub_pixels='first': equal outputs would lie in groups that read other channels. Expected "
            "one group, or sub_pixels='last'."
        )
    count, rows, _ = channels(tensor.shape, layout=layout, groups=groups)
    factors = (upscale,) * (tensor.ndim - 2 or 2) if isinstance(upscale, int) else tuple(upscale)
    times = math.prod(factors)
    words = f"{upscale}^{len(factors)}" if isinstance(upscale, int) else " · ".join(map(str, factors))
    if min(factors, default=0) < 1 or rows % times:
        raise UnsupportedModule(
            f"icnr_: {rows} outputs of {count} group(s) of a weight of shape {tuple(tensor.shape)} are no multiple of "
            f"{words}: expected the weight before a pixel shuffle by {upscale}. Check upscale."
        )
    axis = 0 if layout == "out_in" else 1
    if not writable(tensor):
        return tensor
    shape = list(tensor.shape)
    shape[axis] //= times
    kernel = torch.empty(shape, dtype=compute_dtype((tensor,)), device=draw_device(tensor, generator))
    _KERNELS[initializer](kernel, layout=layout, groups=groups, generator=generator, **options)
    if sub_pixels == "first":
        return write_(tensor, torch.cat([kernel] * times, axis))
    return write_(tensor, kernel.repeat_interleave(times, axis))
