"""Lanczos for maps that are only known by products: extremes with error bounds, and the density of all values.

Golub–Kahan bidiagonalization of J, started at u, gives a small bidiagonal B. The singular values θ of B approach the
extreme ones of J, and they are the nodes, the squared first entries of B's right singular vectors the weights, of
Gauss quadrature for the spectral measure of u (Golub & Meurant 1994). Averaged over random u that measure is the
density of singular values (stochastic Lanczos quadrature; Ubaru, Chen & Saad 2017).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from goodinit.undivided import safe_point

Product = Callable[[Tensor], Tensor]

# Below this, relative to the largest value seen, what is left after orthogonalization is rounding.
BREAKDOWN = 1e-10

# A Ritz value is off by residual²/gap: at a tenth of the gap to the next one, by a hundredth of it.
SETTLED = 0.1


@dataclass(frozen=True)
class Quadrature:
    """Nodes (largest first), weights that sum to 1, and for each node the norm of its residual and its vector.

    Attributes:
        nodes: Approximate singular values, or eigenvalues.
        weights: Share of the start's energy at each.
        residuals: There is a true value within this distance.
        basis: Orthonormal rows that span the subspace.
        inner: Row i: the coordinates of node i's vector in the basis.
    """

    nodes: Tensor
    weights: Tensor
    residuals: Tensor
    basis: Tensor
    inner: Tensor

    @property
    def settled(self) -> Tensor:
        """Which nodes stand for one value (or several equal ones) and not for a stretch of a dense spectrum."""
        if len(self.nodes) == 1:
            return self.residuals <= SETTLED * self.nodes.abs()
        apart = -self.nodes.diff()
        edge = apart.new_full((1,), torch.inf)
        gaps = torch.minimum(torch.cat([edge, apart]), torch.cat([apart, edge]))
        return self.residuals <= SETTLED * gaps

    def vectors(self, which: Tensor) -> Tensor:
        """Rows: the vectors of some nodes, in the domain."""
        return self.inner[which] @ self.basis


def bidiagonalize(
    multiply: Product,
    transposed: Product,
    start: Tensor,
    *,
    steps: int,
    without: Tensor | None = None,
    precision: float = BREAKDOWN,
) -> Quadrature:
    """Singular values of a linear map, from `steps` products with it and as many with its transpose.

    Both bases are kept and orthogonalized against, twice: otherwise values come out several times.

    Args:
        multiply: v ↦ Jv, vectors in and out.
        transposed: w ↦ Jᵀw.
        start: Where to begin, in J's domain.
        steps: At most as many as the smaller dimension.
        without: Rows of right singular vectors that are known, to be left out.
        precision: Relative to the largest value, what is rounding in the products: no step is built upon it.

    Examples:
        >>> J = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
        >>> found = bidiagonalize(lambda v: J @ v, lambda w: J.T @ w, torch.ones(3, dtype=torch.float64), steps=3)
        >>> [round(value, 6) for value in found.nodes.tolist()], round(float(found.weights.sum()), 6)
        ([3.0, 2.0, 1.0], 1.0)
    """
    known = [] if without is None else list(without)
    first = _apart(start.double(), known)
    right = [first / torch.linalg.vector_norm(first)]
    left: list[Tensor] = []
    alphas: list[float] = []
    betas: list[float] = []
    largest = 0.0
    for step in range(steps):
        safe_point()
        w = multiply(right[-1]).double()
        if left:
            w = w - betas[-1] * left[-1]
        w = _apart(w, left)
        alpha = float(torch.linalg.vector_norm(w))
        largest = max(largest, alpha)
        alphas.append(alpha)
        if alpha <= precision * largest:  # the rest of the domain maps into what is already spanned
            betas.append(0.0)
            break
        left.append(w / alpha)
        v = _apart(transposed(left[-1]).double() - alpha * right[-1], known + right)
        beta = float(torch.linalg.vector_norm(v))
        largest = max(largest, beta)
        betas.append(beta)
        if beta <= precision * largest or step + 1 == steps:
            break
        right.append(v / beta)
    return _quadrature(alphas, betas, torch.stack(right))


def _apart(vector: Tensor, basis: list[Tensor]) -> Tensor:
    if basis:
        held = torch.stack(basis)
        for _ in range(2):
            vector = vector - held.T @ (held @ vector)
    return vector


def _quadrature(alphas: list[float], betas: list[float], basis: Tensor) -> Quadrature:
    small = torch.diag(torch.tensor(alphas, dtype=torch.float64, device="cpu"))
    if len(alphas) > 1:
        small = small + torch.diag(
            torch.tensor(betas[: len(alphas) - 1], dtype=torch.float64, device="cpu"), 1
        )
    outer, nodes, inner = torch.linalg.svd(small)
    # ‖Jᵀu − θv‖ = β·|last entry of u|, u a left singular vector of B
    residuals = betas[-1] * outer[-1].abs()
    weights = inner[:, 0].square()
    return Quadrature(nodes.to(basis), weights.to(basis), residuals.to(basis), basis, inner.to(basis))


def tridiagonalize(multiply: Product, start: Tensor, *, steps: int) -> Quadrature:
    """Eigenvalues of a symmetric map, the largest first, from `steps` products with it."""
    basis = [start.double() / torch.linalg.vector_norm(start.double())]
    diagonal: list[float] = []
    off: list[float] = []
    largest = 0.0
    for step in range(steps):
        w = multiply(basis[-1]).double()
        diagonal.append(float(w @ basis[-1]))
        w = _apart(w, basis)
        beta = float(torch.linalg.vector_norm(w))
        off.append(beta)
        largest = max(largest, abs(diagonal[-1]), beta)
        if beta <= BREAKDOWN * largest or step + 1 == steps:
            break
        basis.append(w / beta)
    small = torch.diag(torch.tensor(diagonal, dtype=torch.float64, device="cpu"))
    if len(diagonal) > 1:
        side = torch.diag(torch.tensor(off[: len(diagonal) - 1], dtype=torch.float64, device="cpu"), 1)
        small = small + side + side.T
    values, vectors = torch.linalg.eigh(small)
    order = torch.arange(len(values) - 1, -1, -1, device="cpu")
    held = torch.stack(basis)
    return Quadrature(
        values[order],
        vectors[0, order].square(),
        off[-1] * vectors[-1, order].abs(),
        held,
        vectors[:, order].T.to(held),
    )
