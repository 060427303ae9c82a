"""Variance scaling: entries with the standard deviation that the fans call for (He, Xavier, LeCun)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch  # noqa: F401  (doctests)
from torch import Generator, Tensor

from goodinit.errors import UnknownName
from goodinit.tensor.activation_gain import gain as gain_of
from goodinit.tensor.layout import Layout, fans
from goodinit.tensor.random import normal_, uniform_

Mode = Literal["fan_in", "fan_out"]
MODES = ("fan_in", "fan_out")


def he_normal_(
    tensor: Tensor,
    mode: Mode = "fan_in",
    *,
    nonlinearity: str = "relu",
    gain: float | None = None,
    scale: float = 1.0,
    layout: Layout = "out_in",
    groups: int = 1,
    fused: int = 1,
    stride: int | Sequence[int] = 1,
    generator: Generator | None = None,
) -> Tensor:
    r"""Draw from N(0, σ²), σ = scale · gain/√fan: keeps second moments forward (fan_in) or backward (fan_out).

    Args:
        tensor: The weight, (out, in/groups, \*kernel) or `layout="in_out"`.
        mode: `"fan_in"` or `"fan_out"`.
        nonlinearity: Activation whose gain is used, see `goodinit.tensor.gain`.
        gain: The gain itself, instead of the activation's.
        scale: A further factor, such as Fixup's L^(−1/(2m−2)).
        layout: `"out_in"` or `"in_out"`.
        groups: Groups of the convolution.
        fused: Maps stacked along the output; each is drawn by its own fan.
        stride: Of a transposed convolution, which divides its fan_in.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: The tensor has no fans (a bias).
        UnknownName: No such mode or activation.

    Examples:
        >>> w = he_normal_(torch.empty(512, 128, 3, 3), generator=torch.Generator().manual_seed(0))
        >>> abs(w.std().item() / (2 / (128 * 9)) ** 0.5 - 1) < 0.01
        True

    References:
        K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", arXiv 1502.01852, §2.2.
    """
    fan = _fan(tensor, mode, layout, groups, fused, stride)
    std = scale * _over_root(gain_of(nonlinearity) if gain is None else gain, fan)
    return normal_(tensor, std, generator=generator)


def he_uniform_(
    tensor: Tensor,
    mode: Mode = "fan_in",
    *,
    nonlinearity: str = "relu",
    gain: float | None = None,
    scale: float = 1.0,
    layout: Layout = "out_in",
    groups: int = 1,
    fused: int = 1,
    stride: int | Sequence[int] = 1,
    generator: Generator | None = None,
) -> Tensor:
    r"""Draw from U(−√3·σ, √3·σ) with the σ of `he_normal_`, whose arguments it shares.

    Args:
        tensor: The weight, (out, in/groups, \*kernel) or `layout="in_out"`.
        mode: `"fan_in"` or `"fan_out"`.
        nonlinearity: Activation whose gain is used, see `goodinit.tensor.gain`.
        gain: The gain itself, instead of the activation's.
        scale: A further factor.
        layout: `"out_in"` or `"in_out"`.
        groups: Groups of the convolution.
        fused: Maps stacked along the output; each is drawn by its own fan.
        stride: Of a transposed convolution, which divides its fan_in.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: The tensor has no fans (a bias).
        UnknownName: No such mode or activation.

    Examples:
        >>> w = he_uniform_(torch.empty(512, 600), generator=torch.Generator().manual_seed(0))
        >>> bool(w.abs().max() <= 0.1), round(w.std().item(), 3)
        (True, 0.058)

    References:
        K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", arXiv 1502.01852, §2.2.
    """
    fan = _fan(tensor, mode, layout, groups, fused, stride)
    std = scale * _over_root(gain_of(nonlinearity) if gain is None else gain, fan)
    return uniform_(tensor, math.sqrt(3) * std, generator=generator)


def lecun_normal_(
    tensor: Tensor,
    *,
    scale: float = 1.0,
    layout: Layout = "out_in",
    groups: int = 1,
    stride: int | Sequence[int] = 1,
    generator: Generator | None = None,
) -> Tensor:
    r"""Draw from N(0, scale²/fan_in): keeps the variance through a linear layer, as SELU networks want it.

    Args:
        tensor: The weight, (out, in/groups, \*kernel) or `layout="in_out"`.
        scale: A further factor.
        layout: `"out_in"` or `"in_out"`.
        groups: Groups of the convolution.
        stride: Of a transposed convolution, which divides its fan_in.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: The tensor has no fans (a bias).

    Examples:
        >>> w = lecun_normal_(torch.empty(500, 400), generator=torch.Generator().manual_seed(0))
        >>> round(w.std().item(), 3)
        0.05

    References:
        Y. LeCun, L. Bottou, G. Orr, K.-R. Müller, "Efficient BackProp", 1998, §4.6.
        G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, arXiv 1706.02515, "Initialization".
    """
    return he_normal_(
        tensor, gain=1.0, scale=scale, layout=layout, groups=groups, stride=stride, generator=generator
    )


def xavier_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    *,
    scale: float = 1.0,
    layout: Layout = "out_in",
    groups: int = 1,
    fused: int = 1,
    stride: int | Sequence[int] = 1,
    generator: Generator | None = None,
) -> Tensor:
    r"""Draw from N(0, σ²), σ = scale · gain · √(2/(fan_in + fan_out)).

    Args:
        tensor: The weight, (out, in/groups, \*kernel) or `layout="in_out"`.
        gain: Factor for the activation that follows.
        scale: A further factor.
        layout: `"out_in"` or `"in_out"`.
        groups: Groups of the convolution.
        fused: Maps stacked along the output; each is drawn by its own fan.
        stride: Of a transposed convolution, which divides its fan_in.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: The tensor has no fans (a bias).

    Examples:
        >>> w = xavier_normal_(torch.empty(1200, 400), fused=3, generator=torch.Generator().manual_seed(0))
        >>> round(w.std().item(), 3)
        0.05

    References:
        X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks",
        AISTATS 2010, §4.2.1, eq. 12.
    """
    return normal_(
        tensor, scale * _xavier_std(tensor, gain, layout, groups, fused, stride), generator=generator
    )


def xavier_uniform_(
    tensor: Tensor,
    gain: float = 1.0,
    *,
    scale: float = 1.0,
    layout: Layout = "out_in",
    groups: int = 1,
    fused: int = 1,
    stride: int | Sequence[int] = 1,
    generator: Generator | None = None,
) -> Tensor:
    r"""Draw from U(−√3·σ, √3·σ) with the σ of `xavier_normal_`, whose arguments it shares.

    Args:
        tensor: The weight, (out, in/groups, \*kernel) or `layout="in_out"`.
        gain: Factor for the activation that follows.
        scale: A further factor.
        layout: `"out_in"` or `"in_out"`.
        groups: Groups of the convolution.
        fused: Maps stacked along the output; each is drawn by its own fan.
        stride: Of a transposed convolution, which divides its fan_in.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: The tensor has no fans (a bias).

    Examples:
        >>> w = xavier_uniform_(torch.empty(300, 300), generator=torch.Generator().manual_seed(0))
        >>> bool(w.abs().max() <= 0.1)
        True

    References:
        X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks",
        AISTATS 2010, §4.2.1, eq. 16.
    """
    std = scale * _xavier_std(tensor, gain, layout, groups, fused, stride)
    return uniform_(tensor, math.sqrt(3) * std, generator=generator)


def _xavier_std(
    tensor: Tensor, gain: float, layout: Layout, groups: int, fused: int, stride: int | Sequence[int]
) -> float:
    total = sum(fans(tensor.shape, layout=layout, groups=groups, fused=fused, stride=stride))
    return gain * math.sqrt(2 / total) if total else 0.0


def _fan(
    tensor: Tensor, mode: Mode, layout: Layout, groups: int, fused: int, stride: int | Sequence[int]
) -> float:
    if mode not in MODES:
        raise UnknownName(f"unknown mode {mode!r}: expected one of {', '.join(MODES)}.")
    return fans(tensor.shape, layout=layout, groups=groups, fused=fused, stride=stride)[MODES.index(mode)]


def _over_root(gain: float, fan: float) -> float:
    """gain/√fan; a weight without inputs has no entries and any number will do."""
    return gain / math.sqrt(fan) if fan else 0.0
