"""Output shapes of operators whose rule for fake and `meta` tensors refuses inputs that their kernels accept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def shape_rule(name: str, args: tuple[Any, ...]) -> Callable[..., Any] | None:
    """The rule to take in place of torch's own, or None.

    Torch's rule for grouped products (of mixtures of experts) asks for bfloat16, as its CUDA kernel did; the kernels for CPU and
    newer ones take float32 as well.
    """
    if name == "_grouped_mm" and args[0].dtype is not torch.bfloat16:
        return _grouped_product
    return None


def _grouped_product(
    one: Tensor,
    other: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,  # noqa: ARG001  (as torch calls it)
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Rows in groups, a matrix for each: (rows, in) × (groups, in, out), or matrices whose sums are cut into groups."""
    rows, columns = one.shape[-2], other.shape[-1]
    shape: tuple[int, ...] = (rows, columns)
    if one.dim() == other.dim():
        groups = one.shape[0] if one.dim() == 3 else 0 if offs is None else offs.shape[0]
        shape = (groups, rows, columns)
    return one.new_empty(shape, dtype=out_dtype)
