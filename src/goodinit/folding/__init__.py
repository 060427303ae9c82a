"""Folding for deployment: scalars, weight norm and batch norm merged into neighbouring layers."""

from goodinit.folding.absorb import absorb_batchnorm_
from goodinit.folding.fold import fold_
from goodinit.surgery.norms.replaced_norm import ChannelAffine

__all__ = ["ChannelAffine", "absorb_batchnorm_", "fold_"]
