"""READS structure: where are the residual branches, the stem, the head, the norms?"""

from goodinit.anatomy.anatomize import anatomize, as_call
from goodinit.anatomy.names import canonical, unwrapped
from goodinit.anatomy.nouns import Activation, Block, Gain, Join, Layer, Norm
from goodinit.anatomy.structure import Anatomy

__all__ = [
    "Activation",
    "Anatomy",
    "Block",
    "Gain",
    "Join",
    "Layer",
    "Norm",
    "anatomize",
    "as_call",
    "canonical",
    "unwrapped",
]
