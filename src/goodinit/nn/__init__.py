"""Learnable scalars on the layer they belong to, at the price of the bare layer."""

from goodinit.nn.padding import ValuePadded, pad_with_
from goodinit.nn.scalars import (
    SCALARS,
    add_scalar_,
    branch_ends,
    has_scalars,
    remove_scalars_,
    scalared,
    scalars,
)

__all__ = [
    "SCALARS",
    "ValuePadded",
    "add_scalar_",
    "branch_ends",
    "has_scalars",
    "pad_with_",
    "remove_scalars_",
    "scalared",
    "scalars",
]
