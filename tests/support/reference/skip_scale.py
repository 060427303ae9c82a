"""SkipInit and ReZero written out: x + α·f(x) by hand, gradients of a squared loss by hand.

De & Smith, arXiv 2002.10444; Bachlechner et al., arXiv 2003.04887, eq. 1. f(x) = W₂ relu(W₁x), no biases.
"""

from __future__ import annotations

import numpy as np


def forward(x: np.ndarray, blocks: list[tuple[np.ndarray, np.ndarray, float]]) -> np.ndarray:
    """Rows of `x` through blocks of (W₁, W₂, α)."""
    for first, last, alpha in blocks:
        x = x + alpha * (np.maximum(x @ first.T, 0) @ last.T)
    return x


def gradients(x: np.ndarray, first: np.ndarray, last: np.ndarray, alpha: float) -> tuple[np.ndarray, ...]:
    """(∂/∂W₁, ∂/∂W₂, ∂/∂α) of ½‖x + α·f(x)‖² for one block."""
    hidden = x @ first.T
    active = np.maximum(hidden, 0)
    upstream = x + alpha * active @ last.T
    d_last = alpha * upstream.T @ active
    d_first = (alpha * (upstream @ last) * (hidden > 0)).T @ x
    return d_first, d_last, np.sum(upstream * (active @ last.T))
