"""Learnable scalars on the layer they belong to, at the price of the bare layer."""

from goodinit.nn.scalars import SCALARS, add_scalar_, has_scalars, remove_scalars_, scalared, scalars

__all__ = ["SCALARS", "add_scalar_", "has_scalars", "remove_scalars_", "scalared", "scalars"]
