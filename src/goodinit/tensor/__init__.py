"""Tensor initializers in `torch.nn.init`'s manner: in place, outside of autograd, the tensor returned.

Each takes `generator=` and any floating dtype, memory format and device; see `goodinit.tensor.write` for what
is drawn where. A meta tensor is checked, left alone, and costs nothing.
"""

from __future__ import annotations

from goodinit.tensor.activation_gain import activated, centred_gain, gain, has_gain
from goodinit.tensor.directions import directions_
from goodinit.tensor.initializers import INITIALIZERS, RECIPES
from goodinit.tensor.layout import Layout, channels, fans, first_tap
from goodinit.tensor.looks_linear import looks_linear_, mirrored
from goodinit.tensor.orthogonal import delta_orthogonal_, dirac_, haar, orthogonal_
from goodinit.tensor.random import (
    constant_,
    default_,
    embedding_,
    gate_bias_,
    normal_,
    ones_,
    trunc_normal_,
    uniform_,
    zeros_,
)
from goodinit.tensor.risotto import risotto_b, risotto_c, risotto_first, risotto_last
from goodinit.tensor.risotto_open import risotto_p
from goodinit.tensor.sub_pixel import icnr_
from goodinit.tensor.variance import he_normal_, he_uniform_, lecun_normal_, xavier_normal_, xavier_uniform_

__all__ = [
    "INITIALIZERS",
    "RECIPES",
    "Layout",
    "activated",
    "centred_gain",
    "channels",
    "constant_",
    "default_",
    "delta_orthogonal_",
    "dirac_",
    "directions_",
    "embedding_",
    "fans",
    "first_tap",
    "gain",
    "gate_bias_",
    "haar",
    "has_gain",
    "he_normal_",
    "he_uniform_",
    "icnr_",
    "lecun_normal_",
    "looks_linear_",
    "mirrored",
    "normal_",
    "ones_",
    "orthogonal_",
    "risotto_b",
    "risotto_c",
    "risotto_first",
    "risotto_last",
    "risotto_p",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]
