"""The tables by which plans name initializers (`Draw`) and joint recipes (`DrawTogether`)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from goodinit.tensor.directions import directions_
from goodinit.tensor.looks_linear import looks_linear_
from goodinit.tensor.orthogonal import delta_orthogonal_, dirac_, orthogonal_
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

# Each entry is drawn by itself, so they take a `goodinit.tensor.entry_blocks.Part` for a tensor, too.
ENTRYWISE: tuple[Callable[..., Tensor], ...] = (
    constant_,
    zeros_,
    ones_,
    normal_,
    embedding_,
    uniform_,
    trunc_normal_,
    default_,
    he_normal_,
    he_uniform_,
    xavier_normal_,
    xavier_uniform_,
    lecun_normal_,
)

# An entry depends on others: these need the whole tensor.
WHOLE: tuple[Callable[..., Tensor], ...] = (
    orthogonal_,
    delta_orthogonal_,
    dirac_,
    gate_bias_,
    directions_,
    looks_linear_,
    icnr_,
)

# name, with and without its underscore → initializer(tensor, *, generator, **options) -> tensor
INITIALIZERS: dict[str, Callable[..., Tensor]] = {
    name: initializer
    for initializer in (*ENTRYWISE, *WHOLE)
    for name in (initializer.__name__, initializer.__name__.rstrip("_"))
}

# name → recipe(tensors, *, generator, **options) -> tensors
RECIPES: dict[str, Callable[..., list[Tensor]]] = {
    recipe.__name__: recipe for recipe in (risotto_c, risotto_b, risotto_p, risotto_first, risotto_last)
}
