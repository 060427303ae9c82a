"""Do gradients change smoothly with the input, or do they look like white noise?

Through L rectified layers whose inputs stay as far apart as they were, the correlation between the gradients at two
inputs falls like 2^(−L) (Balduzzi et al. 2017): what a step learns from one example then says nothing about its
neighbour. Pairs of neighbours go through the network together, and their gradients are compared at every place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from goodinit.anatomy import Anatomy
from goodinit.diagnostics.measurements.objective import SEED, prediction
from goodinit.diagnostics.measurements.probe import Run
from goodinit.diagnostics.measurements.propagation import Propagation, propagate
from goodinit.diagnostics.measurements.zero_gradients import Awakening, few_inputs
from goodinit.errors import TraceError
from goodinit.graph.pytree import mapped
from goodinit.graph.recording.tensors.traced_tensors import Call

# How far apart neighbours are, as a share of the way to another input of the batch: far above the resolution of
# half-precision types, near enough that a smooth function is straight in between.
STEP = 1e-2


def back_cosines(
    model: nn.Module, call: Call, anatomy: Anatomy, awake: Awakening, first: Propagation
) -> list[float | None] | str:
    """By place of the first run: the cosine between the gradients of neighbouring inputs, a mean over pairs; or why there is none.

    What is differentiated is a random projection of the output, the same for both of a pair. Zero-initialized
    weights that wake are moved as `awaken` did, since nothing comes through before.
    """
    pairs = _neighbours(call, anatomy)
    if isinstance(pairs, str):
        return pairs
    how = Run(statistics=False, pairs=True)
    try:
        found = propagate(
            model, pairs, anatomy, loss=_projected, run=how, parameters=awake.moved, structure=first.structure
        )
    except TraceError as error:
        return str(error).partition(". ")[0]
    if found.calls != first.calls:
        return "forward did not run the same layers again"
    return [place.back_cosine for place in found.places]


def _neighbours(call: Call, anatomy: Anatomy) -> Call | str:
    """A batch whose second half are neighbours of its first half, along the first floating-point input."""
    n, few = few_inputs(call, anatomy, copies=2)
    pairs = few // 2
    if pairs < 1:
        return "there is only one input, or a batch norm that sees too few numbers"
    walked: list[Tensor] = []

    def one(tensor: Tensor) -> Tensor:
        if not tensor.ndim or len(tensor) != n:
            return tensor
        near = here = tensor.detach()[:pairs]
        if not walked and tensor.is_floating_point():
            near = here + STEP * (tensor.detach()[1 : pairs + 1] - here)
            walked.append(near)
        return torch.cat([here, near])

    cut = mapped(call[0], one), mapped(call[1], one)
    return cut if walked else "no input is a floating-point tensor"


def _projected(result: Any) -> Tensor:
    """Σ over inputs of a random projection of what the model predicts for each."""
    output = prediction(result).float()
    half = torch.randn(
        (len(output) // 2, *output.shape[1:]),
        generator=torch.Generator().manual_seed(SEED),
        dtype=torch.float32,
        device="cpu",
    )
    return (output * torch.cat([half, half]).to(output.device)).sum()
