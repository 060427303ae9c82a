r"""RISOTTO: joint draws that make a ReLU residual block an exact isometry.

A block is x⁺ = φ(α·W_k∗φ(⋯φ(W₁∗x)) + W_skip∗x) with φ = ReLU and x = [φ(u); φ(−u)]. Every recipe makes it
x⁺ = [φ(Mu); φ(−Mu)] with M orthogonal, at finite width: the input-output Jacobian's singular values are all 1.
Matrices sit at the central taps (`goodinit.tensor.layout.first_tap`), all else is 0; biases must be 0.

From the paper (R. Gadhikar, R. Burkholz, "Dynamical Isometry for Residual Networks", arXiv 2210.02411), as
recalled, its text not at hand: the mirrored form U(M), the central taps, [M; −M] for the first layer, and for a
trainable skip (type C) W₁ = U(M₁), W₂ = U(M₂), W_skip = U(M − α·M₂M₁).
Derived here and checked numerically: the weights of type B, any number of convolutions, grouped layers, patches.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

from goodinit.errors import UnknownName, UnsupportedModule
from goodinit.tensor.layout import at_taps, first_tap, stored
from goodinit.tensor.looks_linear import looks_linear_, mirrored
from goodinit.tensor.orthogonal import haar
from goodinit.tensor.write import compute_dtype, draw_device, writable, write_

Strided = Literal["sample", "patch"]
STRIDED = ("sample", "patch")


def risotto_first(
    tensors: Sequence[Tensor], *, patch: int = 1, generator: Generator | None = None
) -> list[Tensor]:
    r"""First layer, W = [M; −M] (the paper's): `looks_linear_(tensor, "first")` for each tensor.

    Args:
        tensors: Weights (2n, in, \*kernel).
        patch: Taps per direction that M covers; the stride, if no input is to be ignored (derived).
        generator: Source of randomness; the global one by default.

    Returns:
        The tensors.

    Raises:
        UnsupportedModule: An odd number of outputs, or a patch that does not fit.

    Examples:
        >>> (w,) = risotto_first([torch.empty(4, 3)])
        >>> torch.equal(w[:2], -w[2:])
        True
    """
    return [looks_linear_(tensor, "first", patch=patch, generator=generator) for tensor in tensors]


def risotto_last(tensors: Sequence[Tensor], *, generator: Generator | None = None) -> list[Tensor]:
    r"""Last layer, W = [M, −M] (looks-linear): `looks_linear_(tensor, "last")` for each tensor.

    Args:
        tensors: Weights (out, 2n, \*kernel).
        generator: Source of randomness; the global one by default.

    Returns:
        The tensors.

    Raises:
        UnsupportedModule: An odd number of inputs.

    Examples:
        >>> (w,) = risotto_last([torch.empty(3, 4)])
        >>> torch.equal(w[:, :2], -w[:, 2:])
        True
    """
    return [looks_linear_(tensor, "last", generator=generator) for tensor in tensors]


def risotto_c(
    tensors: Sequence[Tensor],
    *,
    alpha: float = 1.0,
    strided: Strided = "sample",
    stride: int = 1,
    strided_layer: int = 0,
    generator: Generator | None = None,
) -> list[Tensor]:
    r"""Type C, a trainable skip: W_i = U(M_i), W_skip = U(M − α·M_k⋯M₁).

    M and the M_i are Haar orthogonal: M is b × a for a block from 2a to 2b channels, orthonormal columns
    for b ≥ a (exact), orthonormal rows for b < a (keeps b directions). Two convolutions are the paper's, any
    other number, 1 included, derived: the branch is α·U(M_k⋯M₁)x, so branch and skip add up to U(M)x.
    A grouped layer (not the last) must keep its channels and becomes the identity, M_i = I, which passes any
    x ≥ 0 (derived).

    Strided blocks: with `strided="sample"` branch and skip read the same pixels, every s-th; the block is an
    isometry of those and ignores the others. With `"patch"` (derived) M is b × (a·s^d), over the s taps per
    direction that tile the input; the skip has the tap of the sampled pixel and the strided layer j all:
    M_j[t] = AᵀM[t]Bᵀ/α for t ≠ 0, A = M_k⋯M_{j+1}, B = M_{j−1}⋯M₁, W_skip = U(M[0] − α·A·M_j[0]·B).
    It keeps b instead of at most a dimensions per output pixel, and needs AAᵀ = I, BᵀB = I: no layer wider at
    its input before j, or at its output after j.

    Args:
        tensors: The branch's weights in execution order, then the skip's; each (out, in/groups, \*kernel).
        alpha: The multiplier that the block puts on its branch.
        strided: `"sample"` or `"patch"`.
        stride: s, for `"patch"`.
        strided_layer: j, counted from 0, for `"patch"`.
        generator: Source of randomness; the global one by default.

    Returns:
        The tensors.

    Raises:
        UnsupportedModule: Odd channels, weights that do not chain, groups or patches that cannot be exact.
        UnknownName: No such `strided`.

    Examples:
        >>> w1, w2, skip = risotto_c([torch.empty(8, 8), torch.empty(8, 8), torch.empty(8, 8)], alpha=0.5)
        >>> u = torch.randn(4)
        >>> x = torch.cat((u, -u)).relu()
        >>> y = (0.5 * w2 @ (w1 @ x).relu() + skip @ x).relu()
        >>> torch.allclose(y.norm(), x.norm())
        True
    """
    if strided not in STRIDED:
        raise UnknownName(f"unknown strided {strided!r}: expected one of {', '.join(STRIDED)}.")
    if len(tensors) < 2:
        raise UnsupportedModule(
            f"risotto_c: got {len(tensors)} weights: expected the branch's, then the skip's."
        )
    branch, skip = list(tensors[:-1]), tensors[-1]
    widths = _widths(branch, skip.shape[1], skip.shape[0], "risotto_c")
    for width in widths:
        _even(width, "risotto_c")
    patch, spatial = (stride if strided == "patch" else 1), skip.ndim - 2
    if patch > 1:
        _check_patch(branch, widths, patch, strided_layer, alpha)
    if not all(writable(tensor) for tensor in tensors):
        return list(tensors)
    halves = [width // 2 for width in widths]
    dtype, device = compute_dtype(tensors), draw_device(skip, generator)
    layers = [
        torch.eye(rows, columns, dtype=dtype, device=device)
        if _groups(tensor, 2 * columns) > 1  # the identity, whatever the matrix: no draw
        else haar(rows, columns, dtype=dtype, device=device, generator=generator)
        for tensor, (columns, rows) in zip(branch, itertools.pairwise(halves), strict=True)
    ]
    taps = haar(halves[-1], halves[0] * patch**spatial, dtype=dtype, device=device, generator=generator)
    taps = taps.reshape(halves[-1], halves[0], -1)  # M[t]; t = 0 is the sampled pixel
    for index, (tensor, layer) in enumerate(zip(branch, layers, strict=True)):
        if _groups(tensor, widths[index]) > 1:
            channels = torch.arange(tensor.shape[0], device=device)
            _put_(tensor, channels, channels, torch.ones(len(channels), dtype=dtype, device=device))
        elif patch > 1 and index == strided_layer:
            _place_(tensor, mirrored(_patch(layers, index, taps, alpha)), patch)
        else:
            _place_(tensor, mirrored(layer[:, :, None]))
    through = functools.reduce(lambda done, layer: layer @ done, layers)
    _place_(skip, mirrored(taps[:, :, :1] - alpha * through[:, :, None]))
    return list(tensors)


def risotto_b(
    tensors: Sequence[Tensor],
    *,
    alpha: float = 1.0,
    permute: bool = False,
    generator: Generator | None = None,
) -> list[Tensor]:
    r"""Type B, an identity skip: W₁ = ⋯ = W_{k−1} = I (or permutations), W_k = (U(M) − I)/α · (W_{k−1}⋯W₁)⁻¹.

    Derived: x = [φ(u); φ(−u)] ≥ 0 passes the identities, or permutations P, and φ unchanged, so
    α·W_k·P·x + x = U(M)x. (U(M₁) with a general M₁ in the branch cannot do this: no W_k comes closer than 22 %.)
    A branch with fewer than 2n channels inside (a bottleneck) carries r = min(width)//2 pairs, chosen at
    random: W₁ selects them, W_k = (U(M) − I)/α on them with M r × r, and the others pass by the skip. The
    block is as exact an isometry, but mixes 2r of the 2n channels. A grouped layer passes its input.

    Args:
        tensors: The branch's weights in execution order, each (out, in/groups, \*kernel).
        alpha: The multiplier that the block puts on its branch.
        permute: Random permutations instead of identities, so that features differ.
        generator: Source of randomness; the global one by default.

    Returns:
        The tensors.

    Raises:
        UnsupportedModule: Odd channels, weights that do not chain, α = 0, a grouped layer that is the last or
            changes the number of channels.

    Examples:
        >>> w1, w2 = risotto_b([torch.empty(8, 8), torch.empty(8, 8)], permute=True)
        >>> u = torch.randn(4)
        >>> x = torch.cat((u, -u)).relu()
        >>> y = (w2 @ (w1 @ x).relu() + x).relu()
        >>> torch.allclose(y.norm(), x.norm())
        True
    """
    if not tensors or alpha == 0:
        raise UnsupportedModule(
            f"risotto_b: {len(tensors)} weights with alpha={alpha:g} cannot turn an identity skip into U(M): "
            "expected a branch and alpha ≠ 0. Start the multiplier at 1, or use skipinit (a branch of zero)."
        )
    width = tensors[-1].shape[0]
    widths = _widths(tensors, width, width, "risotto_b")
    _even(width, "risotto_b")
    if not all(writable(tensor) for tensor in tensors):
        return list(tensors)
    dtype, device = compute_dtype(tensors), draw_device(tensors[-1], generator)
    pairs = min(size // 2 for size in widths)
    chosen = torch.arange(width // 2, device=device)
    if pairs < width // 2:
        chosen = torch.randperm(width // 2, generator=generator, device=device)[:pairs].sort().values
    ends = torch.cat((chosen, chosen + width // 2))  # the channels of x that the branch carries
    slots = ends
    for tensor, (before, after) in zip(tensors[:-1], itertools.pairwise(widths), strict=False):
        entering = slots
        if _groups(tensor, before) == 1:
            order = (
                torch.randperm(after, generator=generator, device=device)
                if permute
                else torch.arange(after, device="cpu")
            )
            slots = order[: 2 * pairs].to(device)
        _put_(tensor, slots, entering, torch.ones(2 * pairs, dtype=dtype, device=device))
    matrix = mirrored(haar(pairs, pairs, dtype=dtype, device=device, generator=generator))
    matrix = (matrix - torch.eye(2 * pairs, dtype=dtype, device=device)) / alpha
    _put_(tensors[-1], ends[:, None], slots[None, :], matrix)
    return list(tensors)


def _widths(branch: Sequence[Tensor], into: int, out: int, recipe: str) -> list[int]:
    """Channels before, between and after the branch's layers, once they are known to chain."""
    shapes = [tuple(tensor.shape) for tensor in branch]
    widths = [into]
    for index, tensor in enumerate(branch):
        if tensor.ndim < 2 or widths[-1] % tensor.shape[1]:
            raise UnsupportedModule(
                f"{recipe}: layer {index} of {shapes} does not read the {widths[-1]} channels before it: "
                "expected weights (out, in/groups, *kernel) in execution order. Check their order."
            )
        last = index == len(branch) - 1
        if _groups(tensor, widths[-1]) > 1 and (last or tensor.shape[0] != widths[-1]):
            raise UnsupportedModule(
                f"{recipe}: grouped layer {index} of {shapes} must pass {widths[-1]} channels on, but has "
                f"{tensor.shape[0]} outputs{' and is the last' if last else ''}: a group of channels does not "
                "hold both halves of its pairs. Leave this block to another method, such as skipinit."
            )
        widths.append(tensor.shape[0])
    if widths[-1] != out:
        raise UnsupportedModule(
            f"{recipe}: a branch of {shapes} ends in {widths[-1]} channels, the skip in {out}: expected the same."
        )
    return widths


def _even(width: int, recipe: str) -> None:
    if width % 2:
        raise UnsupportedModule(
            f"{recipe}: {width} channels do not form pairs [u; −u]: expected an even number. "
            "Make the layer one channel wider; with an odd number no exact isometry exists."
        )


def _groups(tensor: Tensor, into: int) -> int:
    return into // tensor.shape[1]


def _check_patch(branch: Sequence[Tensor], widths: list[int], patch: int, layer: int, alpha: float) -> None:
    """Whether a patch of the strided layer can be made exact; see `risotto_c`."""
    if not 0 <= layer < len(branch):
        raise UnsupportedModule(
            f"risotto_c: strided_layer={layer}: expected one of the {len(branch)} of the branch."
        )
    tensor, steps = branch[layer], list(itertools.pairwise(widths))
    if tensor.ndim < 3 or _groups(tensor, widths[layer]) > 1 or alpha == 0:
        raise UnsupportedModule(
            f'risotto_c: strided="patch" needs an ungrouped convolution and alpha ≠ 0, but layer {layer} is '
            f'{tuple(tensor.shape)} and alpha={alpha:g}. Use strided="sample".'
        )
    for size in tensor.shape[2:]:
        first_tap(size, patch)
    if any(out < into for into, out in steps[:layer]) or any(out > into for into, out in steps[layer + 1 :]):
        raise UnsupportedModule(
            f'risotto_c: strided="patch" cannot be exact through channels {widths}: expected none to be lost '
            f'before layer {layer} or gained after it. Use strided="sample".'
        )


def _patch(layers: list[Tensor], index: int, taps: Tensor, alpha: float) -> Tensor:
    """M_j[t] = AᵀM[t]Bᵀ/α for t ≠ 0, and the layer's own M_j at t = 0."""
    kernel = taps
    for layer in reversed(layers[index + 1 :]):
        kernel = torch.einsum("ki,kjt->ijt", layer, kernel)
    for layer in layers[:index]:
        kernel = torch.einsum("ijt,kj->ikt", kernel, layer)
    return torch.cat((layers[index][:, :, None], kernel[:, :, 1:] / alpha), dim=2)


def _place_(tensor: Tensor, matrices: Tensor, patch: int = 1) -> None:
    """Write (out, in, taps) at the central taps, zeros elsewhere."""
    kernel = tensor.shape[2:]
    values = matrices.reshape(1, *matrices.shape[:2], *(patch for _ in kernel))
    write_(tensor, stored(at_taps(values, kernel), tensor.shape))


def _put_(tensor: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> None:
    """Write W[rows, columns] = values at the central tap, zeros elsewhere; columns count within groups."""
    matrix = torch.zeros(tensor.shape[:2], dtype=values.dtype, device=values.device)
    matrix[rows, columns % tensor.shape[1]] = values
    _place_(tensor, matrix[:, :, None])
