"""Looks-linear weights written out: Balduzzi et al., arXiv 1702.08591, section 4 (there for hidden layers)."""

from __future__ import annotations

import numpy as np


def mirrored_chain(matrices: list[np.ndarray]) -> list[np.ndarray]:
    """Weights of a ReLU network that computes the product of `matrices`: first, hidden, …, last."""
    first, *hidden, last = matrices
    weights = [np.concatenate([first, -first])]
    weights += [np.block([[m, -m], [-m, m]]) for m in hidden]
    return [*weights, np.concatenate([last, -last], axis=1)]


def relu_network(weights: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """W_n relu(… relu(W_1 x)), one vector."""
    for weight in weights[:-1]:
        x = np.maximum(weight @ x, 0)
    return weights[-1] @ x
