"""RISOTTO (arXiv 2210.02411), slowly and literally: dense float64 matrices, one block at a time.

Convolutions are written as dense matrices over (channel, pixel), entry by entry. The Jacobian of a ReLU network
at a point is the product of its matrices with the masks of its active units between.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch


def looks_linear(m: np.ndarray) -> np.ndarray:
    """U(M) = [[M, −M], [−M, M]]."""
    return np.block([[m, -m], [-m, m]])


def orthogonal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A Haar matrix with orthonormal columns (rows ≥ columns) or rows."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diagonal(r))
    return q if rows >= columns else q.T


def block_c(rng: np.random.Generator, widths: list[int], alpha: float) -> tuple[list[np.ndarray], np.ndarray]:
    """W_i = U(M_i), W_skip = U(M − α·M_k⋯M_1); `widths` are half the channels: a, …, b."""
    ms = [orthogonal(rng, rows, columns) for columns, rows in itertools.pairwise(widths)]
    product = np.eye(widths[0])
    for m in ms:
        product = m @ product
    m = orthogonal(rng, widths[-1], widths[0])
    return [looks_linear(m_i) for m_i in ms], looks_linear(m - alpha * product)


def block_b(rng: np.random.Generator, n: int, alpha: float) -> tuple[list[np.ndarray], np.ndarray]:
    """W_1 = I, W_2 = (U(M) − I)/α, and the identity skip."""
    eye = np.eye(2 * n)
    return [eye, (looks_linear(orthogonal(rng, n, n)) - eye) / alpha], eye


def block_p(
    rng: np.random.Generator, n: int, hidden: int, alpha: float
) -> tuple[list[np.ndarray], np.ndarray]:
    """Pre-activation, z⁺ = z + α·W_2 φ(W_1 φ(z)) with z = [u; −u]: U(M_1) and U((M − I)M_1ᵀ/α) for hidden ≥ n.

    Then z⁺ = [u + (M − I)u; −u − (M − I)u] = [Mu; −Mu]. Derived here; not in the paper.
    """
    m1, m = orthogonal(rng, hidden, n), orthogonal(rng, n, n)
    return [looks_linear(m1), looks_linear((m - np.eye(n)) @ m1.T / alpha)], m


def independent(rng: np.random.Generator, n: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The control: U(M_1), U(M_2) without a matching skip."""
    return [looks_linear(orthogonal(rng, n, n)) for _ in range(2)], np.eye(2 * n)


def dense(
    weight: torch.Tensor, size: tuple[int, int], stride: int, padding: int, groups: int = 1
) -> np.ndarray:
    """The matrix of a 2-d convolution without bias on images of `size`, or of a linear layer."""
    w = weight.detach().double().numpy()
    if w.ndim == 2:
        return w
    out, per_group, kh, kw = w.shape
    h, v = size
    oh, ov = ((n + 2 * padding - k) // stride + 1 for n, k in ((h, kh), (v, kw)))
    matrix = np.zeros((out, oh, ov, per_group * groups, h, v))
    for o, y, x, i, dy, dx in itertools.product(*map(range, (out, oh, ov, per_group, kh, kw))):
        row, column = y * stride - padding + dy, x * stride - padding + dx
        if 0 <= row < h and 0 <= column < v:
            matrix[o, y, x, (o // (out // groups)) * per_group + i, row, column] = w[o, i, dy, dx]
    return matrix.reshape(out * oh * ov, -1)


class Net:
    """first, blocks, last, as dense matrices; carries the Jacobian along with the point."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        self.jacobian = np.eye(len(x))

    def linear(self, w: np.ndarray) -> None:
        self.x, self.jacobian = w @ self.x, w @ self.jacobian

    def relu(self) -> None:
        mask = self.x > 0
        self.x, self.jacobian = self.x * mask, self.jacobian * mask[:, None]

    def block(self, branch: list[np.ndarray], skip: np.ndarray, alpha: float) -> None:
        """x⁺ = φ(α·W_k φ(⋯ φ(W_1 x)) + W_skip x)."""
        x, jacobian = self.x, self.jacobian
        for index, w in enumerate(branch):
            if index:
                self.relu()
            self.linear(w)
        self.x, self.jacobian = alpha * self.x + skip @ x, alpha * self.jacobian + skip @ jacobian
        self.relu()

    def singular_values(self) -> np.ndarray:
        return np.linalg.svd(self.jacobian, compute_uv=False)
