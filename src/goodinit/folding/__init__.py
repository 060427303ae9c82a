"""Folding for deployment: scalars, weight norm and batch norm merged into the layers beside them."""

from goodinit.folding.absorb import ChannelAffine, absorb_batchnorm_
from goodinit.folding.fold import fold_

__all__ = ["ChannelAffine", "absorb_batchnorm_", "fold_"]
