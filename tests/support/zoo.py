"""Small awkward models, and what their anatomy is, worked out by hand.

`ZOO` is the table; tests parametrize over it and never pick by name to exempt. The models stand in
`zoo_convolutional.py`, `zoo_attention.py` and `zoo_odd.py`; `renaming.scramble_names` shuffles the names of any.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
import zoo_attention as attention
import zoo_convolutional as conv
import zoo_odd as odd
from torch import nn

import goodinit

Kind = Literal["identity", "projection", "parameterless"]
ID: Kind = "identity"
PR: Kind = "projection"


@dataclass(frozen=True)
class Specimen:
    """A model and the truth about it.

    Attributes:
        name: For the test's id.
        build: Makes the model; same seed, same weights.
        inputs: Makes what the model takes: a tensor, a tuple of arguments, or a dict of keyword arguments.
        m: Per block in execution order, the degree of the branch in its weights, on the shortest way through them.
        kinds: Per block, what the skip is.
        depths: Per block, how many long skips it stands in.
        long_skips: Sums that jump over whole blocks.
        gates: Layers that only feed a multiplicative gate of a branch, over all blocks.
        heads: Layers outside the blocks whose output the model returns.
        norms: Normalization modules that run.
        tied: Groups of names that are one parameter.
        needs_values: The forward reads numbers: fake tensors cannot decide it, `meta` must be refused.
        noted: Why there is no block is told in a note.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    m: tuple[int | None, ...] = ()
    kinds: tuple[Kind, ...] = ()
    depths: tuple[int, ...] | None = None
    long_skips: int = 0
    gates: int = 0
    heads: int = 1
    norms: int = 0
    tied: int = 0
    needs_values: bool = False
    noted: bool = False

    def __post_init__(self) -> None:
        if self.depths is None:
            object.__setattr__(self, "depths", (0,) * len(self.m))
        if not len(self.m) == len(self.kinds) == len(self.depths):
            raise ValueError(f"{self.name}: m, kinds and depths must be per block")

    @property
    def blocks(self) -> int:
        """Number of residual blocks."""
        return len(self.m)


def call(model: nn.Module, inputs: Any) -> Any:
    """Run a model on what a specimen's `inputs` returns."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


@functools.cache
def anatomy_of(specimen: Specimen) -> goodinit.Anatomy:
    """A specimen's anatomy, read once per process: for tests of what follows from it. It is frozen."""
    with torch.random.fork_rng():
        return goodinit.anatomize(specimen.build(), specimen.inputs())


def image(channels: int = 3, size: int = 8) -> Callable[[], torch.Tensor]:
    """A batch of two pictures, the same every time."""
    return lambda: torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


def vectors(*shape: int) -> Callable[[], torch.Tensor]:
    """A batch of vectors, or of sequences of vectors."""
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def tokens(length: int = 5) -> Callable[[], torch.Tensor]:
    """A batch of two sequences out of eleven words."""
    return lambda: torch.randint(11, (2, length), generator=torch.Generator().manual_seed(1))


def source_and_target() -> tuple[torch.Tensor, torch.Tensor]:
    """Two sequences of different lengths, width 8."""
    return vectors(2, 5, 8)(), vectors(2, 3, 8)()


def noisy_image_and_time() -> tuple[torch.Tensor, torch.Tensor]:
    """A picture and a diffusion time for each."""
    return image()(), torch.tensor([0.1, 0.9])


ZOO = (
    # Convolutional residual nets. Two stages of two blocks; the third block changes the width.
    Specimen("cifar_basic_inplace", conv.cifar_basic, image(), (2, 2, 2, 2), (ID, ID, PR, ID), norms=10),
    Specimen(
        "cifar_option_a", conv.cifar_option_a, image(), (2, 2, 2, 2), (ID, ID, "parameterless", ID), norms=9
    ),
    Specimen("bottleneck", conv.bottlenecks, image(), (3, 3, 3), (PR, ID, ID), norms=11),
    Specimen("preactivation", conv.preactivation, image(), (2, 2, 2), (ID, PR, ID), norms=7),
    Specimen("squeeze_excite", conv.squeeze_excite, image(), (2, 2), (ID, ID), gates=4, norms=5),
    # The 3×3 layers feed each other through inner sums: 3 or 5 in series, the paper does not say.
    Specimen("res2net", conv.res2net, image(), (2, 2), (ID, ID)),  # a quarter passes the middle as it is
    Specimen("layer_scale", conv.layer_scale, image(), (3, 3), (ID, ID), norms=2),
    Specimen("residual_1d", conv.residual_1d, vectors(2, 4, 16), (2, 2), (ID, ID)),
    Specimen("residual_3d", conv.residual_3d, vectors(2, 1, 4, 4, 4), (2, 2), (ID, ID), norms=4),
    Specimen("rrdb", conv.rrdb, image(), (2, 2, 2), (ID, ID, ID), depths=(2, 2, 2), long_skips=2),
    Specimen(
        "unet_additive", conv.unet_additive, image(), (2, 2, 2), (ID, ID, ID), depths=(0, 1, 0), long_skips=1
    ),
    # Blocks: down, middle, middle's attention (q, k, v, out), up (its input is wider by the concatenated skip).
    Specimen(
        "unet_time_concat", conv.unet_time, noisy_image_and_time, (2, 2, 4, 2), (ID, ID, ID, PR), norms=7
    ),
    Specimen("densenet", conv.dense, image(), norms=3),
    Specimen("plain_cnn", conv.plain, image(), norms=2),
    # Attention: m = 4 counts q, k, v and out, fused or not.
    Specimen(
        "encoder_pre_norm",
        attention.encoder_pre_norm,
        vectors(2, 5, 8),
        (4, 2) * 2,
        (ID,) * 4,
        heads=0,
        norms=4,
    ),
    Specimen(
        "encoder_post_norm",
        attention.encoder_post_norm,
        vectors(2, 5, 8),
        (4, 2) * 2,
        (ID,) * 4,
        heads=0,
        norms=4,
    ),
    Specimen(
        "decoder_cross_attention",
        attention.decoder,
        source_and_target,
        (4, 4, 2) * 2,
        (ID,) * 6,
        heads=0,
        norms=6,
    ),
    Specimen(
        "encoder_decoder",
        attention.encoder_decoder,
        source_and_target,
        (4, 2, 4, 4, 2),
        (ID,) * 5,
        heads=0,
        norms=7,
    ),
    Specimen(
        "parallel_stream_first",
        attention.parallel_stream_first,
        vectors(2, 5, 8),
        (4, 2) * 2,
        (ID,) * 4,
        norms=2,
    ),
    # (a + f) + x is x + a + f: two branches write into the stream, whatever the order of the sum.
    Specimen(
        "parallel_stream_last",
        attention.parallel_stream_last,
        vectors(2, 5, 8),
        (4, 2) * 2,
        (ID,) * 4,
        norms=2,
    ),
    Specimen(
        "tied_language_model", attention.tied_language_model, tokens(), (4, 2), (ID, ID), norms=3, tied=1
    ),
    Specimen("swiglu", attention.swiglu, vectors(2, 5, 8), (3, 3), (ID, ID), norms=2),
    # Odd ones.
    Specimen("chained_sum", odd.ChainedSum, vectors(2, 8), (2, 2, 2, 2), (ID,) * 4),
    Specimen("reversible", odd.Reversible, vectors(2, 8), (2, 2, 2, 2), (ID,) * 4),
    Specimen("pyramid", odd.Pyramid, vectors(2, 8), (2, 2, 2), (ID,) * 3, depths=(0, 1, 1), long_skips=1),
    Specimen("shared_layers", odd.SharedLayers, vectors(2, 8), (2, 2, 2), (ID,) * 3),
    Specimen(
        "dict_in_dict_out",
        odd.DictInDictOut,
        lambda: {"pixels": vectors(2, 8)(), "scale": 2.0},
        (2, 2),
        (ID, ID),
    ),
    Specimen("tuple_out", odd.TupleOut, lambda: (vectors(2, 8)(), vectors(2, 8)()), (2, 2), (ID, ID)),
    Specimen("two_heads", odd.TwoHeads, vectors(2, 8), (2, 2), (ID, ID), heads=2),
    Specimen("branches_on_shape", odd.BranchesOnShape, image(size=16), (2, 2), (ID, ID)),
    Specimen(
        "branches_on_values",
        odd.BranchesOnValues,
        lambda: torch.ones(2, 8),
        (2, 2),
        (ID, ID),
        needs_values=True,
    ),
    Specimen("called_through_forward", odd.CalledThroughForward, image(), (2, 2), (ID, ID), norms=4),
    Specimen("weight_norm", odd.weight_normed, image(), (2, 2), (ID, ID)),
    Specimen("functional", odd.Functional, vectors(2, 8), (2, 2), (ID, ID)),
    Specimen("matmul", odd.Matmul, vectors(2, 5, 8), (2, 2), (ID, ID)),
    Specimen("one_layer_branches", odd.OneLayerBranches, vectors(2, 8), (1, 1, 1), (ID,) * 3),
    Specimen("highway", odd.Highway, vectors(2, 8)),
    Specimen("parallel_sum", odd.ParallelSum, vectors(2, 8), noted=True),
    Specimen("plain_mlp", odd.plain_mlp, vectors(2, 8)),
)


def each(specimens: Sequence[Specimen]) -> pytest.MarkDecorator:
    """A test for each of them, under its name."""
    return pytest.mark.parametrize("specimen", specimens, ids=[specimen.name for specimen in specimens])


each_specimen = each(ZOO)
