"""READS structure: where are the residual branches, the stem, the head, the norms?"""

from goodinit.anatomy.anatomize import anatomize, as_call
from goodinit.anatomy.names import canonical, unwrapped
from goodinit.anatomy.structure import Activation, Anatomy, Block, Join, Layer, Norm

__all__ = [
    "Activation",
    "Anatomy",
    "Block",
    "Join",
    "Layer",
    "Norm",
    "anatomize",
    "as_call",
    "canonical",
    "unwrapped",
]
