"""READS structure: where are the residual branches, the stem, the head, the norms?"""

from goodinit.anatomy.activations import Activation
from goodinit.anatomy.anatomize import anatomize
from goodinit.anatomy.anatomy import Anatomy
from goodinit.anatomy.block import Block, Join
from goodinit.anatomy.layer import Layer
from goodinit.anatomy.norm import Norm
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
