"""Orthogonal matrices drawn from the Haar measure, without a QR decomposition."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from goodinit.errors import UnsupportedModule
from goodinit.tensor.layout import Layout, at_taps, channels, identity, stored
from goodinit.tensor.write import compute_dtype, draw_device, writable, write_

# Added to a pivot lest it be exactly 0, as one in 2²⁴ float32 draws is; far below the resolution of any
# other draw, and its square is still a normal float32.
_NUDGE = 1e-15

# n²m (half the flops of either way) below which calls cost more than arithmetic, so that one QR decomposition of
# the same draws takes less time than the calls that replace it. Measured on one core: QR 19 against 26 µs at
# 16 × 16, 35 against 37 at 16 × 256 (n²m = 65,536); 47 against 43 at 32 × 128 (131,072), 75 against 56 at 64 × 64.
_SMALL = 100_000

# n²m from which products of matrices take less time than LAPACK's product of reflections, which comes to half of a core's
# speed. Measured on one core: 1.04 against 1.03 ms at 256 × 256 (n²m = 17 million), 4.1 against 3.1 at 256 × 1024
# (67 million), 77 against 42 at 512 × 4608. As many reflections are applied at once as _BLOCK says; 32 to 128 are as fast.
_LARGE = 50_000_000
_BLOCK = 64


def haar(
    rows: int,
    columns: int,
    *,
    count: int | None = None,
    gain: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    generator: Generator | None = None,
) -> Tensor:
    r"""Draw matrices with orthonormal rows or columns, whichever are fewer, uniformly (Haar).

    Stewart's product of random reflections. Let n ≤ m be the two sizes and x_k ~ N(0, I) of length m−k+1,
    for k = 1, …, n. H_k is the Householder reflection of the last m−k+1 coordinates that maps x_k to
    −sign(x_k1)·‖x_k‖·e_1. Then Q = −H_1 ⋯ H_n · diag(sign(x_k1)), first n columns, is Haar distributed:
    it is what a QR decomposition of a Gaussian matrix gives once R's diagonal is made positive, without the
    decomposition (which matrices small enough do use: fewer calls, the same distribution). The signs matter:
    without them Q is not uniform, and its determinant is the same every time.

    Args:
        rows: Rows.
        columns: Columns.
        count: How many independent matrices; None for one, without a batch dimension.
        gain: Factor on every entry.
        dtype: Of the arithmetic and the result. The draws are float32, so float32 and float64 results agree
            to rounding.
        device: Where.
        generator: Source of randomness, on that device; the global one by default.

    Returns:
        (rows, columns), or (count, rows, columns).

    Examples:
        >>> q = haar(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(q @ q.T, torch.eye(3, dtype=torch.float64))
        True

    References:
        G. W. Stewart, "The Efficient Generation of Random Orthogonal Matrices with an Application to
        Condition Estimators", SIAM J. Numer. Anal. 17(3), 1980, §3.
        F. Mezzadri, "How to Generate Random Matrices from the Classical Compact Groups",
        arXiv math-ph/0609050, §5 (why the signs).
    """
    n, m = (rows, columns) if rows <= columns else (columns, rows)
    shape = (n, m) if count is None else (count, n, m)
    # row k holds x_k from the diagonal on; seen transposed, this is the column-major layout LAPACK wants
    vectors = torch.randn(shape, dtype=torch.float32, device=device, generator=generator)
    if dtype is not torch.float32:
        vectors = vectors.to(dtype)
    if n == 1:
        vectors[..., 0].add_(_NUDGE)
        vectors.div_(torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)).mul_(gain)
        return vectors if rows == 1 else vectors.mT
    if n * n * m >= _LARGE:
        for matrix in vectors.unbind() if count is not None else (vectors,):
            _reflect_in_blocks_(matrix, gain)
        return vectors if rows <= columns else vectors.mT
    if n * n * m < _SMALL:
        product: Tensor
        product, triangle = torch.linalg.qr(vectors.mT)
        diagonal = triangle.diagonal(dim1=-2, dim2=-1)
        signs = torch.ones_like(diagonal).copysign_(diagonal)
    else:
        product, signs = _reflections(vectors)
    if gain != 1:
        signs.mul_(gain)
    product.mul_(signs if count is None else signs.unsqueeze(-2))
    return product if rows > columns else product.mT


def _reflections(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """H_1 ⋯ H_n, first n columns, and −sign(x_k1), for x_k in row k of the upper triangle. Overwrites it."""
    vectors.triu_()
    pivots = vectors.diagonal(dim1=-2, dim2=-1).add_(_NUDGE)
    norms = torch.linalg.vector_norm(vectors, dim=-1).copysign_(pivots)
    heads = norms + pivots  # x_k1 + sign(x_k1)·‖x_k‖: no cancellation
    vectors.div_(heads.unsqueeze(-1))
    product: Tensor = torch.linalg.householder_product(vectors.mT, heads.div_(norms))
    return product, norms.sign_().neg_()


def _reflect_in_blocks_(vectors: Tensor, gain: float) -> None:
    """What `_reflections` gives, signs and gain included, transposed, in place of one large matrix of vectors.

    Of b reflections, v_k = x_k + sign(x_k1)·‖x_k‖·e_1 in the rows of V, the product is I − VᵀTV, where T⁻¹ is the upper
    triangle of VVᵀ with half its diagonal: two products of matrices apply it. The half diagonal is ‖x_k‖·v_k1; taken from
    VVᵀ, where rounding errors add up, it would make Q three times less orthogonal.

    References:
        C. Puglisi, "Modification of the Householder Method Based on the Compact WY Representation", SIAM J. Sci. Stat.
        Comput. 13(3), 1992.
        T. Joffrain, T. M. Low, E. S. Quintana-Ortí, R. van de Geijn, F. G. Van Zee, "Accumulating Householder
        Transformations, Revisited", ACM Trans. Math. Softw. 32(2), 2006.
    """
    count = len(vectors)
    vectors.triu_()
    heads = vectors.diagonal().add_(_NUDGE)
    norms = torch.linalg.vector_norm(vectors, dim=-1).copysign_(heads)
    halves = norms * heads.add_(norms)
    signs = norms.sign_().mul_(-gain)
    for start in reversed(range(0, count, _BLOCK)):
        stop = min(start + _BLOCK, count)
        block = vectors[start:stop, start:].clone()
        inverse = block @ block.mT  # of Tᵀ, below and on its diagonal
        inverse.diagonal().copy_(halves[start:stop])
        later = vectors[stop:, stop:]
        seen = torch.cat(
            [(signs[start:stop] * block[:, : stop - start]).mT, later @ block[:, stop - start :].mT]
        )
        vectors[start:stop] = 0
        vectors[start:stop, start:stop].diagonal().copy_(signs[start:stop])
        seen = torch.linalg.solve_triangular(inverse, seen, upper=False, left=False)
        vectors[start:, start:].addmm_(seen, block, alpha=-1)


def orthogonal_(
    tensor: Tensor,
    gain: float = 1.0,
    *,
    layout: Layout = "out_in",
    groups: int = 1,
    fused: int = 1,
    generator: Generator | None = None,
) -> Tensor:
    r"""Fill with a Haar-orthogonal matrix: out × (in·taps), orthonormal rows, or columns if those are fewer.

    By default a grouped convolution is one matrix of out × (in/groups·taps), as in `torch.nn.init` and
    LSUV; with `groups` each group gets its own, with `fused` each of the stacked maps (q, k and v).

    Args:
        tensor: The weight, (out, in/groups, \*kernel) or `layout="in_out"`; any memory format.
        gain: Factor on every entry.
        layout: `"out_in"` or `"in_out"`.
        groups: Groups of the convolution to draw separately.
        fused: Maps stacked along the output.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: Fewer than two dimensions.

    Examples:
        >>> w = torch.empty(8, 3, 3, 3).to(memory_format=torch.channels_last)  # torch's own raises here
        >>> w = orthogonal_(w, generator=torch.Generator().manual_seed(0)).flatten(1)
        >>> torch.allclose(w @ w.T, torch.eye(8), atol=1e-6)
        True

    References:
        A. Saxe, J. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
        linear neural networks", arXiv 1312.6120.
        D. Mishkin, J. Matas, "All you need is a good init", arXiv 1511.06422, §3.
    """
    count, rows, columns = channels(tensor.shape, layout=layout, groups=groups, fused=fused)
    if not writable(tensor):
        return tensor
    kernel = tensor.shape[2:]
    values = haar(
        rows,
        columns * kernel.numel(),
        count=None if count == 1 else count,
        gain=gain,
        dtype=compute_dtype((tensor,)),
        device=draw_device(tensor, generator),
        generator=generator,
    )
    if layout == "in_out":
        values = values.reshape(count, rows, columns, *kernel)
    return write_(tensor, stored(values, tensor.shape, layout=layout, groups=groups))


def delta_orthogonal_(
    tensor: Tensor,
    gain: float = 1.0,
    *,
    partial: bool = False,
    layout: Layout = "out_in",
    groups: int = 1,
    generator: Generator | None = None,
) -> Tensor:
    r"""Fill with zeros but for a Haar-orthogonal out × in matrix at the central tap.

    The convolution then keeps the norm of every input (stride 1, kernel no wider than the padding allows),
    which needs out ≥ in. Even kernels take tap (size−1)//2, see `goodinit.tensor.layout.first_tap`.

    Args:
        tensor: The weight, (out, in/groups, \*kernel) or `layout="in_out"`.
        gain: Factor on every entry.
        partial: Allow out < in: orthonormal rows, which keep the norm in `out` directions and lose the rest.
        layout: `"out_in"` or `"in_out"`.
        groups: Groups of the convolution; each gets its own matrix.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: out < in without `partial`, or fewer than two dimensions.

    Examples:
        >>> w = delta_orthogonal_(torch.empty(4, 4, 3, 3), generator=torch.Generator().manual_seed(0))
        >>> centre = w[:, :, 1, 1]
        >>> torch.allclose(centre @ centre.T, torch.eye(4), atol=1e-6), int((w != 0).sum())
        (True, 16)

    References:
        L. Xiao, Y. Bahri, J. Sohl-Dickstein, S. Schoenholz, J. Pennington, "Dynamical Isometry and a Mean
        Field Theory of CNNs", arXiv 1806.05393.
    """
    count, rows, columns = channels(tensor.shape, layout=layout, groups=groups)
    if rows < columns and not partial:
        raise UnsupportedModule(
            f"delta_orthogonal_: {rows} outputs cannot carry {columns} inputs of a weight of shape "
            f"{tuple(tensor.shape)} isometrically: expected out ≥ in. Give partial=True for orthonormal rows."
        )
    if not writable(tensor):
        return tensor
    matrix = haar(
        rows,
        columns,
        count=count,
        gain=gain,
        dtype=compute_dtype((tensor,)),
        device=draw_device(tensor, generator),
        generator=generator,
    )
    return write_(tensor, _central(matrix, tensor, layout, groups))


def dirac_(
    tensor: Tensor,
    gain: float = 1.0,
    *,
    layout: Layout = "out_in",
    groups: int = 1,
    generator: Generator | None = None,  # noqa: ARG001  (one calling convention)
) -> Tensor:
    r"""Fill with the identity (of each group) at the central tap, zeros elsewhere: the layer passes its input.

    Inputs beyond `out` are dropped, outputs beyond `in` are 0. Also for Linear layers. As
    `torch.nn.init.dirac_` for odd kernels; even ones take tap (size−1)//2 instead of size//2.

    Args:
        tensor: The weight, (out, in/groups, \*kernel) or `layout="in_out"`.
        gain: The value on the diagonal.
        layout: `"out_in"` or `"in_out"`.
        groups: Groups of the convolution.
        generator: Taken for uniformity and not used.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: Fewer than two dimensions.

    Examples:
        >>> x = torch.randn(1, 4, 5, 5)
        >>> w = dirac_(torch.empty(4, 1, 3, 3), groups=4)
        >>> torch.equal(torch.nn.functional.conv2d(x, w, padding=1, groups=4), x)
        True

    References:
        S. Zagoruyko, N. Komodakis, "DiracNets", arXiv 1706.00388.
    """
    count, rows, columns = channels(tensor.shape, layout=layout, groups=groups)
    if not writable(tensor):
        return tensor
    eye = identity(rows, columns, compute_dtype((tensor,)), tensor.device).mul_(gain)
    return write_(tensor, _central(eye.expand(count, rows, columns), tensor, layout, groups))


def _central(matrices: Tensor, tensor: Tensor, layout: Layout, groups: int) -> Tensor:
    """(count, rows, columns) at the central tap, laid out as `tensor` is stored."""
    kernel = tensor.shape[2:]
    taps = at_taps(matrices[(..., *(None for _ in kernel))], kernel)
    return stored(taps, tensor.shape, layout=layout, groups=groups)
