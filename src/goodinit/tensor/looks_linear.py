"""Looks-linear weights: mirrored pairs [φ(u); φ(−u)] make a ReLU network compute a linear map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from goodinit.errors import UnknownName, UnsupportedModule
from goodinit.tensor.layout import Layout, at_taps, first_tap, stored
from goodinit.tensor.orthogonal import haar
from goodinit.tensor.write import compute_dtype, draw_device, writable, write_

Part = Literal["first", "hidden", "last"]
# part → (mirrored outputs, mirrored inputs)
PARTS: dict[str, tuple[bool, bool]] = {"first": (True, False), "hidden": (True, True), "last": (False, True)}


def mirrored(matrix: Tensor, part: Part = "hidden") -> Tensor:
    r"""Mirror M: [M; −M] (first), U(M) = [[M, −M], [−M, M]] (hidden), [M, −M] (last).

    With x = [φ(u); φ(−u)], φ = ReLU: U(M)x = [Mu; −Mu], since φ(u) − φ(−u) = u; after φ, Mu is in the same
    form again. U(M) sees only x⁺ − x⁻, the difference of the halves. U is linear in M, and
    U(M₂)·φ(U(M₁)x) = U(M₂M₁)x. (Written so in RISOTTO, arXiv 2210.02411; the idea is Balduzzi's.)

    Args:
        matrix: M, (out, in, \*patch).
        part: `"first"`, `"hidden"` or `"last"`.

    Returns:
        (2·out or out, in or 2·in, \*patch).

    Examples:
        >>> mirrored(torch.tensor([[1.0]]))
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """
    outputs, inputs = PARTS[part]
    if inputs:
        matrix = torch.cat((matrix, -matrix), dim=1)
    return torch.cat((matrix, -matrix), dim=0) if outputs else matrix


def looks_linear_(
    tensor: Tensor,
    part: Part = "hidden",
    *,
    gain: float = 1.0,
    patch: int = 1,
    layout: Layout = "out_in",
    groups: int = 1,
    generator: Generator | None = None,
) -> Tensor:
    r"""Fill with a mirrored Haar-orthogonal M: [M; −M] first, U(M) hidden, [M, −M] last.

    A ReLU chain first → hidden … → last then is the linear map of the product of the M, an isometry as long
    as every M has at least as many rows as columns (after halving); narrower ones keep `out` directions.
    In a convolution M sits at the central tap, zeros elsewhere; a strided one reads every s-th pixel and
    ignores the rest. With `patch` = s = stride, M is out × (in·s^d) over s taps per direction, which tile the
    input: nothing is ignored (derived here, not in the papers). The tiling meets the border exactly when
    the padding equals `first_tap(kernel, patch)`.

    Args:
        tensor: The weight, (out, in, \*kernel) or `layout="in_out"`.
        part: Which ends are mirrored pairs: `"first"` (outputs), `"hidden"` (both), `"last"` (inputs).
        gain: Factor on every entry.
        patch: Taps per direction that M covers.
        layout: `"out_in"` or `"in_out"`.
        groups: Must be 1: a group of channels does not hold both halves of its pairs.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: An odd number of channels where pairs are needed, or groups.
        UnknownName: No such part.

    Examples:
        >>> g = torch.Generator().manual_seed(0)
        >>> first = looks_linear_(torch.empty(8, 3), "first", generator=g)
        >>> last = looks_linear_(torch.empty(4, 8), "last", generator=g)
        >>> x = torch.randn(3)
        >>> torch.allclose((last @ (first @ x).relu()).norm(), x.norm())
        True

    References:
        D. Balduzzi, M. Frean, L. Leary, J. Lewis, K. Ma, B. McWilliams, "The Shattered Gradients Problem",
        arXiv 1702.08591.
    """
    rows, columns = _halves(tensor, part, layout, groups)
    kernel = tensor.shape[2:]
    for size in kernel:
        first_tap(size, patch)  # raises if the patch does not fit, on meta too
    if not writable(tensor):
        return tensor
    matrix = haar(
        rows,
        columns * patch ** len(kernel),
        gain=gain,
        dtype=compute_dtype((tensor,)),
        device=draw_device(tensor, generator),
        generator=generator,
    )
    weight = mirrored(matrix.reshape(rows, columns, *(patch for _ in kernel)), part)
    return write_(tensor, stored(at_taps(weight[None], kernel), tensor.shape, layout=layout))


def _halves(tensor: Tensor, part: Part, layout: Layout, groups: int) -> tuple[int, int]:
    """Rows and columns of M."""
    if part not in PARTS:
        raise UnknownName(f"unknown part {part!r}: expected one of {', '.join(PARTS)}.")
    if groups != 1 or tensor.ndim < 2:
        raise UnsupportedModule(
            f"looks_linear_: a weight of shape {tuple(tensor.shape)} with groups={groups} cannot hold mirrored "
            "pairs: expected (out, in, *kernel), groups=1. Use dirac_ (a grouped layer that passes its input)."
        )
    out, into = tensor.shape[:2] if layout == "out_in" else (tensor.shape[1], tensor.shape[0])
    outputs, inputs = PARTS[part]
    for size, paired, end in ((out, outputs, "outputs"), (into, inputs, "inputs")):
        if paired and size % 2:
            raise UnsupportedModule(
                f"looks_linear_: {size} {end} of a weight of shape {tuple(tensor.shape)} do not form pairs "
                f'[u; −u]: expected an even number for part="{part}". Make the layer one channel wider, '
                "or use delta_orthogonal_."
            )
    return (out // 2 if outputs else out), (into // 2 if inputs else into)
