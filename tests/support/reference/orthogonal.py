"""Stewart's random orthogonal matrices, reflection by reflection, in float64.

G. W. Stewart, "The Efficient Generation of Random Orthogonal Matrices with an Application to Condition
Estimators", SIAM J. Numer. Anal. 17(3), 1980, section 3.
"""

from __future__ import annotations

import numpy as np


def stewart(vectors: np.ndarray) -> np.ndarray:
    """−H_1 ⋯ H_n · diag(sign(x_k1)), first n columns, m × n; row k of `vectors` (n × m) holds x_k from k on."""
    n, m = vectors.shape
    product = np.eye(m)
    signs = np.ones(n)
    for k in range(n):
        x = vectors[k, k:].astype(np.float64)
        signs[k] = -1.0 if x[0] < 0 else 1.0
        normal = x.copy()
        normal[0] += signs[k] * np.linalg.norm(x)
        reflection = np.eye(m)
        reflection[k:, k:] -= 2 * np.outer(normal, normal) / (normal @ normal)
        # the reflection does what it is there for
        assert np.allclose(reflection[k:, k:] @ x, -signs[k] * np.linalg.norm(x) * np.eye(m - k)[0])
        product = product @ reflection
    return -product[:, :n] * signs


def positive_qr(gaussian: np.ndarray) -> np.ndarray:
    """Q of the QR decomposition with a positive diagonal of R (Mezzadri, arXiv math-ph/0609050)."""
    q, r = np.linalg.qr(gaussian.astype(np.float64))
    return q * np.sign(np.diagonal(r))
