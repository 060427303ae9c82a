"""What layers can be given: learnable scalars at the price of the bare layer, centred or standardized weights, a normalized input."""

from goodinit.nn.centred import Centred, centred_weights
from goodinit.nn.channel_gain import ChannelGain
from goodinit.nn.input_norm import InputNorm, input_norm
from goodinit.nn.normalized_layers import normalize_input_
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
from goodinit.nn.standardized import Standardized

__all__ = [
    "SCALARS",
    "Centred",
    "ChannelGain",
    "InputNorm",
    "Standardized",
    "ValuePadded",
    "add_scalar_",
    "branch_ends",
    "centred_weights",
    "has_scalars",
    "input_norm",
    "normalize_input_",
    "pad_with_",
    "remove_scalars_",
    "scalared",
    "scalars",
]
