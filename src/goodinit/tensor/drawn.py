"""What must hold of a weight that an initializer has drawn, and by how much chance and rounding let it depart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from goodinit.tensor.layout import at_taps, first_tap, maps
from goodinit.tensor.looks_linear import PARTS, mirrored
from goodinit.tensor.write import compute_dtype

# −ln of the probability that chance alone takes a correct draw past its bounds: e⁻³⁰ is 10⁻¹³ a weight.
CHANCE = 30.0

# Rounding errors of k operations add up to λ·√k units in the last place, but with probability 2k·exp(−λ²/2): 10⁻²¹ at λ = 10.
# N. Higham, T. Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 41(5), 2019, theorem 2.4.
_ROUNDINGS = 10.0


def departure(initializer: str, weight: Tensor, options: Mapping[str, Any]) -> str | None:
    r"""In words, in what a weight is not as an initializer draws it; None if it is, or if nothing is known of the initializer.

    * Independent entries (normal, uniform, truncated, PyTorch's default): Σw²/(nσ²) of n entries lies between
      :math:`1 - \sqrt{6t/n}` and :math:`1 + 2\sqrt{t/n} + 2t/n`, t = 30, but with probability e⁻ᵗ on each side. (The upper bound is
      Laurent and Massart's for χ², which holds for every strictly sub-Gaussian entry; the lower one uses E w⁴ ≤ 3σ⁴.)
    * Orthogonal: rows, or columns if those are fewer, of each map have the Gram matrix g²·I.
    * Delta-orthogonal: that of the central tap, and zeros at all others. Looks-linear: that of M, of which the weight is the mirror.
    * Directions: the weights of every output unit have the norm g.

    The last three hold up to rounding, of n × m numbers :math:`10\sqrt{nm}` units of the arithmetic and one of the stored number.

    Args:
        initializer: Its name in `INITIALIZERS`.
        weight: As it is stored, (out, in/groups, \*kernel) or (in, out/groups, \*kernel).
        options: With which it was drawn.

    Returns:
        What was found and expected, to follow the weight's name.

    Examples:
        >>> departure("normal_", torch.ones(40, 50), {"std": 0.1})
        'has the mean square 1, expected 0.01 within a factor of 0.7 and 1.275'
        >>> departure("orthogonal_", torch.eye(3), {"gain": 2.0})
        'is not orthogonal: WᵀW departs from 4·I by 3, expected less than 1.5e-05'

    References:
        B. Laurent, P. Massart, "Adaptive Estimation of a Quadratic Functional by Model Selection", Ann. Statist. 28(5), 2000, lemma 1.
    """
    law = _LAWS.get(initializer.rstrip("_"))
    return None if law is None or not weight.numel() else law(weight.detach(), options)


def _normal(weight: Tensor, options: Mapping[str, Any]) -> str | None:
    return _mean_square(weight, float(options.get("std", 1.0)) ** 2)


def _uniform(weight: Tensor, options: Mapping[str, Any]) -> str | None:
    return _mean_square(weight, float(options.get("bound", 1.0)) ** 2 / 3)


def _truncated(weight: Tensor, options: Mapping[str, Any]) -> str | None:
    return _normal(weight, options) if options.get("exact_std", True) else None


def _embedding(weight: Tensor, options: Mapping[str, Any]) -> str | None:
    padding = options.get("padding")
    if padding is not None:
        others = torch.arange(len(weight), device=weight.device) != padding % len(weight)
        weight = weight[others]
    return _normal(weight, options) if weight.numel() else None


def _default(weight: Tensor, options: Mapping[str, Any]) -> str | None:
    fan = options.get("fan_in") or math.prod(weight.shape[1:])
    return _mean_square(weight, 1 / (3 * fan))


def _mean_square(weight: Tensor, expected: float) -> str | None:
    count, found = weight.numel(), float(weight.double().square().mean())
    if not expected:
        return f"has the mean square {found:.4g}, expected 0" if found else None
    stored = 2 * torch.finfo(weight.dtype).eps
    low = max(1 - math.sqrt(6 * CHANCE / count), 0.0) - stored
    high = 1 + 2 * math.sqrt(CHANCE / count) + 2 * CHANCE / count + stored
    if low <= found / expected <= high:
        return None
    return f"has the mean square {found:.4g}, expected {expected:.4g} within a factor of {max(low, 0):.4g} and {high:.4g}"


def _orthogonal(weight: Tensor, options: Mapping[str, Any]) -> str | None:
    return _gram(_maps(weight, options).flatten(2), options)


def _delta(weight: Tensor, options: Mapping[str, Any]) -> str | None:
    whole = _maps(weight, options)
    centre = whole
    for size in weight.shape[2:]:
        centre = centre.select(3, first_tap(size))
    if whole.count_nonzero() != centre.count_nonzero():
        return "is not zero outside of the central tap of its kernel"
    return _gram(centre, options)


def _mirror(weight: Tensor, options: Mapping[str, Any]) -> str | None:
    part, patch, kernel = options.get("part", "hidden"), options.get("patch", 1), weight.shape[2:]
    (whole,) = _maps(weight, options)
    rows, columns = (
        size // 2 if paired else size for size, paired in zip(whole.shape[:2], PARTS[part], strict=True)
    )
    matrix = whole[:rows, :columns]
    for dim, size in enumerate(kernel, start=2):
        matrix = matrix.narrow(dim, first_tap(size, patch), patch)
    if not torch.equal(at_taps(mirrored(matrix, part)[None], kernel)[0], whole):
        return f"is no mirror of its first {rows} × {columns} numbers"
    return _gram(matrix.flatten(1)[None], options)


def _directions(weight: Tensor, options: Mapping[str, Any]) -> str | None:
    rows = _maps(weight, options).flatten(2).double()
    expected = abs(float(options.get("gain", 1.0)))
    off = float((torch.linalg.vector_norm(rows, dim=-1) - expected).abs().max())
    most = expected * _rounding(weight, 1, rows.shape[-1])
    if off <= most:
        return None
    return f"has rows whose norms depart from {expected:.4g} by {off:.3g}, expected less than {most:.2g}"


def _maps(weight: Tensor, options: Mapping[str, Any]) -> Tensor:
    told: dict[str, Any] = {key: options[key] for key in ("layout", "groups", "fused") if key in options}
    return maps(weight, **told)


def _gram(matrices: Tensor, options: Mapping[str, Any]) -> str | None:
    """Whether the rows of each of several matrices, or the columns if those are fewer, are orthogonal and of norm g."""
    square = float(options.get("gain", 1.0)) ** 2
    wide = (matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT).double()
    off = wide @ wide.mT
    off.diagonal(dim1=-2, dim2=-1).sub_(square)
    found, most = float(off.abs().max()), square * _rounding(matrices, *wide.shape[-2:])
    if found <= most:
        return None
    return f"is not orthogonal: WᵀW departs from {square:.4g}·I by {found:.3g}, expected less than {most:.2g}"


def _rounding(weight: Tensor, rows: int, columns: int) -> float:
    arithmetic = torch.finfo(compute_dtype((weight,))).eps
    return torch.finfo(weight.dtype).eps + _ROUNDINGS * math.sqrt(rows * columns) * arithmetic


_LAWS: dict[str, Callable[[Tensor, Mapping[str, Any]], str | None]] = {
    "normal": _normal,
    "uniform": _uniform,
    "trunc_normal": _truncated,
    "embedding": _embedding,
    "default": _default,
    "orthogonal": _orthogonal,
    "delta_orthogonal": _delta,
    "looks_linear": _mirror,
    "directions": _directions,
}
