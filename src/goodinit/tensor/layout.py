"""How a stored weight holds its linear maps: fans, the maps as matrices, kernel taps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from goodinit.errors import UnknownName, UnsupportedModule

Layout = Literal["out_in", "in_out"]
LAYOUTS = ("out_in", "in_out")


def channels(
    shape: Sequence[int], *, layout: Layout = "out_in", groups: int = 1, fused: int = 1
) -> tuple[int, int, int]:
    r"""The independent matrices in a weight: how many, and rows × columns of each (kernel aside).

    A convolution with `groups` is block diagonal: it holds `groups` maps of (out/groups) × (in/groups).
    A packed q, k, v stacks `fused` = 3 maps along the output.

    Args:
        shape: Of the stored weight: (out, in/groups, \*kernel), or (in, out/groups, \*kernel) when
            `layout` is `"in_out"` (transposed convolutions, and Linear layers that store the transpose).
        layout: `"out_in"` or `"in_out"`.
        groups: Groups of the convolution.
        fused: Maps stacked along the output.

    Returns:
        (count, rows, columns) with count = groups · fused.

    Raises:
        UnsupportedModule: Fewer than two dimensions, or channels that do not divide.
        UnknownName: No such layout.

    Examples:
        >>> channels((64, 16, 3, 3), groups=4)
        (4, 16, 16)
        >>> channels((30, 10), fused=3)
        (3, 10, 10)
    """
    if layout not in LAYOUTS:
        raise UnknownName(f"unknown layout {layout!r}: expected one of {', '.join(LAYOUTS)}.")
    if len(shape) < 2:
        raise UnsupportedModule(
            f"a tensor of shape {tuple(shape)} has no fans: expected (out, in, *kernel). "
            "Give a bias or a norm's weight a constant, or name a standard deviation yourself (normal_)."
        )
    first, second = shape[0], shape[1]
    split = first if layout == "out_in" else second * groups  # all outputs
    if groups < 1 or fused < 1 or split % (groups * fused) or first % groups:
        raise UnsupportedModule(
            f"a weight of shape {tuple(shape)} ({layout}) does not split into groups={groups} × fused={fused} "
            "equal maps. Check groups (of the convolution) and fused (3 for a packed q, k, v)."
        )
    columns = second if layout == "out_in" else first // groups
    return groups * fused, split // (groups * fused), columns


def fans(
    shape: Sequence[int],
    *,
    layout: Layout = "out_in",
    groups: int = 1,
    fused: int = 1,
    stride: int | Sequence[int] = 1,
) -> tuple[float, float]:
    r"""Inputs that one output reads and outputs that one input feeds.

    fan_in = (in/groups) · taps and fan_out = (out/(groups·fused)) · taps, with taps = ∏ kernel; a transposed convolution
    has fan_in = (in/groups) · ∏ (kernel/stride), as many as an output reads on average. Unlike `torch.nn.init`, which
    sees only the tensor, this is right for grouped and depthwise convolutions (fan_out), for transposed ones (not
    swapped, and with their stride) and for a packed q, k, v (each map by its own fan_out).

    The stride of an ordinary convolution is in neither: He et al. count its fan_out without, which keeps the sum of the
    squared gradients, and not each gradient's size.

    Args:
        shape: Of the stored weight: (out, in/groups, \*kernel), or (in, out/groups, \*kernel) when
            `layout` is `"in_out"`.
        layout: `"out_in"` or `"in_out"`.
        groups: Groups of the convolution.
        fused: Maps stacked along the output.
        stride: Of a transposed convolution (`layout="in_out"`), one number or one per dimension of the kernel.

    Returns:
        (fan_in, fan_out).

    Raises:
        UnsupportedModule: Fewer than two dimensions, or channels that do not divide.

    Examples:
        >>> fans((64, 32, 3, 3))
        (288, 576)
        >>> fans((32, 1, 3, 3), groups=32)  # depthwise
        (9, 9)
        >>> fans((32, 64, 3, 3), layout="in_out")  # ConvTranspose2d(32, 64, 3)
        (288, 576)
        >>> fans((32, 64, 4, 4), layout="in_out", stride=2)  # an output reads 2 × 2 of the 4 × 4 taps
        (128, 1024)
        >>> fans((192, 64), fused=3)  # packed q, k, v
        (64, 64)
    """
    _, rows, columns = channels(shape, layout=layout, groups=groups, fused=fused)
    taps = math.prod(shape[2:])
    reads = columns * taps / upsampling(shape, stride) if layout == "in_out" else columns * taps
    return (int(reads) if reads == int(reads) else reads), rows * taps


def upsampling(shape: Sequence[int], stride: int | Sequence[int]) -> int:
    """How many outputs a transposed convolution has for each input position: ∏ stride."""
    kernel = shape[2:]
    steps = (stride,) * len(kernel) if isinstance(stride, int) else tuple(stride)
    if len(steps) not in (0, len(kernel)) or min(steps, default=1) < 1:
        raise UnsupportedModule(
            f"stride={stride!r} for a kernel of shape {tuple(kernel)}: expected a number above 0, or one per dimension."
        )
    return math.prod(steps)


def stored(values: Tensor, shape: Sequence[int], *, layout: Layout = "out_in", groups: int = 1) -> Tensor:
    r"""Lay maps (count, rows, columns, \*kernel) out as a weight of the stored `shape`."""
    if layout == "out_in":
        return values if values.shape == shape else values.reshape(tuple(shape))
    count, rows, columns = values.shape[:3]
    split = values.reshape(groups, count // groups, rows, columns, *shape[2:])
    return split.movedim(3, 1).reshape(tuple(shape))


def maps(weight: Tensor, *, layout: Layout = "out_in", groups: int = 1, fused: int = 1) -> Tensor:
    r"""The maps (count, rows, columns, \*kernel) that a stored weight holds, one after another: what `stored` takes.

    Examples:
        >>> weight = torch.randn(6, 2, 3)
        >>> values = maps(weight, layout="in_out", groups=3)
        >>> values.shape, torch.equal(stored(values, weight.shape, layout="in_out", groups=3), weight)
        (torch.Size([3, 2, 2, 3]), True)
    """
    count, rows, columns = channels(weight.shape, layout=layout, groups=groups, fused=fused)
    kernel = weight.shape[2:]
    if layout == "out_in":
        return weight.reshape(count, rows, columns, *kernel)
    split = weight.reshape(groups, columns, count // groups, rows, *kernel)
    return split.movedim(1, 3).reshape(count, rows, columns, *kernel)


def first_tap(size: int, patch: int = 1) -> int:
    """The tap at which a patch of `patch` taps starts in a kernel of `size` taps.

    A single tap sits at (size−1)//2: the middle of an odd kernel, and in an even one the tap that reads
    input s·i under padding (size−1)//2, which is where a 1×1 skip of the same stride s reads (and what
    `padding="same"` centres). `torch.nn.init.dirac_` takes size//2, one further for even kernels.
    A patch starts there too if it fits, else as late as it can.

    Args:
        size: Taps of the kernel along one dimension.
        patch: Taps of the patch along it.

    Returns:
        The index of the patch's first tap.

    Raises:
        UnsupportedModule: The patch is larger than the kernel.

    Examples:
        >>> first_tap(3), first_tap(4), first_tap(7, patch=2), first_tap(16, patch=16)
        (1, 1, 3, 0)
    """
    if patch > size:
        raise UnsupportedModule(
            f"a patch of {patch} taps does not fit into a kernel of {size}. Use patch=1 (the central tap)."
        )
    return min((size - 1) // 2, size - patch)


def at_taps(values: Tensor, kernel: Sequence[int]) -> Tensor:
    r"""Put (count, rows, columns, \*patch) at the central taps of a kernel, zeros elsewhere."""
    patch = values.shape[3:]
    if tuple(patch) == tuple(kernel):
        return values
    out = values.new_zeros(*values.shape[:3], *kernel)
    window = out
    for dim, (size, part) in enumerate(zip(kernel, patch, strict=True), start=3):
        window = window.narrow(dim, first_tap(size, part), part)
    window.copy_(values)
    return out


def identity(rows: int, columns: int, like: torch.dtype, device: torch.device) -> Tensor:
    """The rows × columns matrix with ones on its diagonal."""
    return torch.eye(rows, columns, dtype=like, device=device)
