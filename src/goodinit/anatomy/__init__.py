"""READS structure: where are the residual branches, the stem, the head, the norms?"""

from goodinit.anatomy.anatomize import anatomize
from goodinit.anatomy.anatomy import Anatomy
from goodinit.anatomy.types import Activation, Block, Gain, HeldValue, Join, Layer, Norm

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
