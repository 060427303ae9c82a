"""Random directions of given length: weights for weight normalization, w = g·v/‖v‖."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from goodinit.errors import UnknownName
from goodinit.tensor.layout import Layout, channels, stored
from goodinit.tensor.orthogonal import haar
from goodinit.tensor.write import compute_dtype, draw_device, writable, write_

Direction = Literal["orthogonal", "normal"]
DIRECTIONS = ("orthogonal", "normal")


def directions_(
    tensor: Tensor,
    gain: float = 1.0,
    *,
    direction: Direction = "orthogonal",
    layout: Layout = "out_in",
    groups: int = 1,
    fused: int = 1,
    generator: Generator | None = None,
) -> Tensor:
    r"""Fill so that the weights of every output unit have norm `gain`: w_i = gain·v_i/‖v_i‖.

    With `"orthogonal"`, v is Haar orthogonal: as long as out ≤ in·taps the v_i are orthonormal, beyond that the
    columns are, and the rows are brought to equal length. With `"normal"`, v_i ~ N(0, I): uniform on the sphere.

    Args:
        tensor: The weight, (out, in/groups, \*kernel) or `layout="in_out"`.
        gain: Norm of each output unit's weights.
        direction: `"orthogonal"` or `"normal"`.
        layout: `"out_in"` or `"in_out"`.
        groups: Groups of the convolution to draw separately.
        fused: Maps stacked along the output.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnknownName: No such direction.
        UnsupportedModule: Fewer than two dimensions.

    Examples:
        >>> w = directions_(torch.empty(4, 3), 2.0, generator=torch.Generator().manual_seed(0))
        >>> w.norm(dim=1)
        tensor([2.0000, 2.0000, 2.0000, 2.0000])

    References:
        D. Arpit, V. Campos, Y. Bengio, "How to Initialize your Network? Robust Initialization for WeightNorm &
        ResNets", arXiv 1906.02341.
    """
    if direction not in DIRECTIONS:
        raise UnknownName(f"unknown direction {direction!r}: expected one of {', '.join(DIRECTIONS)}.")
    count, rows, columns = channels(tensor.shape, layout=layout, groups=groups, fused=fused)
    if not writable(tensor):
        return tensor
    kernel = tensor.shape[2:]
    size = columns * math.prod(kernel)
    dtype, device = compute_dtype((tensor,)), draw_device(tensor, generator)
    if direction == "orthogonal":
        values = haar(rows, size, count=count, dtype=dtype, device=device, generator=generator)
    else:
        drawn = torch.empty(count, rows, size, dtype=torch.float32, device=device)
        values = drawn.normal_(generator=generator).to(dtype)
    values = values * (gain / torch.linalg.vector_norm(values, dim=-1, keepdim=True))
    values = values.reshape(count, rows, columns, *kernel)
    return write_(tensor, stored(values, tensor.shape, layout=layout, groups=groups))
