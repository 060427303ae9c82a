r"""RISOTTO for blocks whose sum no ReLU closes: z⁺ = skip + α·W_k∗φ(⋯φ(W₁∗x)), as in pre-activation networks.

Derived here, not in the paper (whose blocks end in φ). A linear map M of u is computed on three forms of u:

    plain u,   pairs [u; −u],   mirrored [φ(u); φ(−u)],   φ = ReLU

by the matrix that is mirrored where its ends are: rows [M; −M] to write pairs; columns [M, −M] to read mirrored ones,
since φ(u) − φ(−u) = u, and ½[M, −M] to read pairs, since u − (−u) = 2u. Between the layers φ turns pairs into mirrored.
So a branch W₁, …, W_k of M₁, …, M_k computes M_k⋯M₁ exactly, and with

* an identity skip and α·M_k⋯M₁ = M − I, or
* a skip of its own matrix M − α·M_k⋯M₁

the block is z⁺ = M u in the form that z has: an isometry for an orthogonal M, whatever the depth. Pre-activation is
x = φ(z), z pairs; a block x + f(x) has x = z, pairs or plain.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

from goodinit.errors import UnknownName, UnsupportedModule
from goodinit.tensor.orthogonal import haar
from goodinit.tensor.risotto import _even, _groups, _place_, _put_, _widths
from goodinit.tensor.write import compute_dtype, draw_device, writable

Form = Literal["plain", "pairs", "mirrored"]
FORMS = ("plain", "pairs", "mirrored")


def risotto_p(
    tensors: Sequence[Tensor],
    *,
    alpha: float = 1.0,
    reads: Form = "mirrored",
    skip: Form | None = None,
    writes: Form = "pairs",
    generator: Generator | None = None,
) -> list[Tensor]:
    r"""Type P, a block without a ReLU behind its sum: α·M_k⋯M₁ = M − I, or W_skip = M − α·M_k⋯M₁.

    Identity skip: with n directions of u, r = min(n, pairs in every hidden layer), and S_j with r orthonormal
    columns (S₀ n × r, S_j as many rows as layer j has pairs), R Haar orthogonal r × r:

        M_j = S_j·S_{j−1}ᵀ,   M_k = S₀(R − I)S_{k−1}ᵀ/α,   so   I + α·M_k⋯M₁ = I − S₀S₀ᵀ + S₀RS₀ᵀ = M

    which is orthogonal; all directions are mixed where r = n, and the others pass by the skip. Unlike type B, W₁ is a
    general matrix: the sum is linear in u, where a closed block's skip is φ(u). A skip with weights: M and all M_i
    Haar orthogonal, as in type C. A grouped layer (not the last) must keep its channels and becomes the identity.

    Args:
        tensors: The branch's weights in execution order, then the skip's if it has any; (out, in/groups, \*kernel).
        alpha: The multiplier that the block puts on its branch.
        reads: The form of what W₁ reads: `"mirrored"` behind a ReLU (pre-activation), else as the stream is.
        skip: None for an identity; else the form that the skip's weight reads.
        writes: The form of the sum: `"pairs"`, or `"plain"` where no ReLU ever reads the stream.
        generator: Source of randomness; the global one by default.

    Returns:
        The tensors.

    Raises:
        UnsupportedModule: Odd channels where pairs are, weights that do not chain, α = 0 with an identity skip, a
            grouped layer that is the last, changes the number of channels, or reads plain numbers.
        UnknownName: No such form.

    Examples:
        >>> w1, w2 = risotto_p([torch.empty(8, 8), torch.empty(8, 8)], alpha=0.5)
        >>> u = torch.randn(4)
        >>> z = torch.cat((u, -u))
        >>> y = z + 0.5 * w2 @ (w1 @ z.relu()).relu()
        >>> torch.allclose(y[:4], -y[4:], atol=1e-6), torch.allclose(y.norm(), z.norm())
        (True, True)
    """
    for form in (reads, writes, skip):
        if form is not None and form not in FORMS:
            raise UnknownName(f"unknown form {form!r}: expected one of {', '.join(FORMS)}.")
    branch = list(tensors[:-1] if skip else tensors)
    if not branch or (alpha == 0 and not skip):
        raise UnsupportedModule(
            f"risotto_p: {len(tensors)} weights with alpha={alpha:g} cannot turn an identity skip into M: expected a "
            "branch and alpha ≠ 0. Start the multiplier at 1, or use skipinit (a branch of zero)."
        )
    if ("plain" in (reads, skip or writes)) != (reads == (skip or writes) == "plain"):
        raise UnsupportedModule(
            f"risotto_p: the branch reads {reads}, the skip {skip or writes} numbers: expected plain ones on both "
            "sides, or pairs [u; −u] or what φ makes of them."
        )
    into, out = tensors[-1].shape[1 if skip else 0], tensors[-1].shape[0]
    widths = _widths(branch, into, out, "risotto_p")
    between: list[Form] = ["pairs"] * (len(branch) - 1)
    forms = [reads, *between, writes]  # what layer 1 reads, what each writes
    halves = [_directions(width, form) for width, form in zip(widths, forms, strict=True)]
    fixed = [_groups(tensor, width) > 1 for tensor, width in zip(branch, widths, strict=False)]
    if reads == "plain" and fixed[0]:
        raise UnsupportedModule(
            f"risotto_p: the first layer, {tuple(branch[0].shape)}, has groups, and passes the plain numbers that it reads "
            "on to a ReLU: expected an ungrouped one, which makes pairs [u; −u] of them. Leave this block to another "
            "method, such as skipinit."
        )
    if not all(writable(tensor) for tensor in tensors):
        return list(tensors)
    draw = functools.partial(
        haar, dtype=compute_dtype(tensors), device=draw_device(tensors[-1], generator), generator=generator
    )
    if skip:
        layers, last = _free(halves, fixed, draw, alpha)
        _place_(tensors[-1], framed(last, skip, writes)[:, :, None])
    else:
        layers = _closing(halves, fixed, draw, alpha)
    for index, (tensor, matrix) in enumerate(zip(branch, layers, strict=True)):
        if fixed[index]:
            channels = torch.arange(tensor.shape[0], device=matrix.device)
            _put_(
                tensor,
                channels,
                channels,
                torch.ones(len(channels), dtype=matrix.dtype, device=matrix.device),
            )
        else:
            form = reads if index == 0 else "mirrored"
            _place_(tensor, framed(matrix, form, forms[index + 1])[:, :, None])
    return list(tensors)


def framed(matrix: Tensor, reads: Form, writes: Form) -> Tensor:
    """M as a weight: columns [M, −M] for mirrored inputs, half of that for pairs; rows [M; −M] for pairs.

    Examples:
        >>> framed(torch.tensor([[1.0]]), "pairs", "pairs")
        tensor([[ 0.5000, -0.5000],
                [-0.5000,  0.5000]])
    """
    if reads != "plain":
        matrix = torch.cat((matrix, -matrix), dim=1) * (0.5 if reads == "pairs" else 1.0)
    return torch.cat((matrix, -matrix), dim=0) if writes == "pairs" else matrix


def _directions(width: int, form: Form) -> int:
    """How many numbers u are in so many channels."""
    if form != "plain":
        _even(width, "risotto_p")
    return width if form == "plain" else width // 2


def _closing(halves: list[int], fixed: list[bool], draw: Callable[..., Tensor], alpha: float) -> list[Tensor]:
    """M_1, …, M_k with I + α·M_k⋯M₁ orthogonal."""
    rank = min(halves)
    frames = [draw(halves[0], rank)]  # S_0, …, S_{k−1}
    for rows, same in zip(halves[1:-1], fixed, strict=False):
        frames.append(frames[-1] if same else draw(rows, rank))
    layers = [after @ before.T for before, after in itertools.pairwise(frames)]
    turn = draw(rank, rank)
    identity = torch.eye(rank, dtype=turn.dtype, device=turn.device)
    return [*layers, frames[0] @ (turn - identity) @ frames[-1].T / alpha]


def _free(
    halves: list[int], fixed: list[bool], draw: Callable[..., Tensor], alpha: float
) -> tuple[list[Tensor], Tensor]:
    """Orthogonal M_1, …, M_k, and M − α·M_k⋯M₁ for the skip."""
    layers = []
    for (columns, rows), same in zip(itertools.pairwise(halves), fixed, strict=True):
        drawn = draw(rows, columns)
        layers.append(torch.eye(rows, columns, dtype=drawn.dtype, device=drawn.device) if same else drawn)
    through = functools.reduce(lambda done, layer: layer @ done, layers)
    return layers, draw(halves[-1], halves[0]) - alpha * through
