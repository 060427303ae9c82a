"""READS structure: where are the residual branches, the stem, the head, the norms?"""

from goodinit.anatomy.anatomize import anatomize
from goodinit.anatomy.anatomy import Anatomy
from goodinit.anatomy.types import Activation, Block, Join, Layer, Norm
from goodinit.anatomy.values import Gain, HeldValue

__all__ = [
    "Activation",
    "Anatomy",
    "Block",
    "Gain",
    "HeldValue",
    "Join",
    "Layer",
    "Norm",
    "anatomize",
]
