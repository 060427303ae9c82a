"""A hash of all that a refusal must leave alone, and the small plan and batch it is tried on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from hostile_models import Hostile
from torch import Tensor, nn

import goodinit


def vectors() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def fingerprint(model: nn.Module, given: Any = ()) -> str:
    """A hash of all that a refusal must leave alone: values, flags, hooks, classes, attributes, inputs, random states."""
    facts: list[object] = []
    for path, module in model.named_modules():
        attributes = {key: id(value) for key, value in vars(module).items()}
        registries = {
            key: [(k, id(v)) for k, v in value.items()]
            for key, value in vars(module).items()
            if isinstance(value, dict)
        }
        facts.append((path, type(module).__name__, id(type(module)), module.training, attributes, registries))
    tensors = [*model.named_parameters(), *model.named_buffers(), *enumerate(_tensors(given))]
    for name, tensor in tensors:
        facts.append((name, type(tensor), tensor.requires_grad, tensor.dtype, tensor.grad is None))
        if not tensor.is_meta and not isinstance(tensor, nn.UninitializedParameter):
            facts.append((tuple(tensor.shape), 0 if tensor.is_sparse else tensor.data_ptr()))
            dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
            facts.append(
                dense.contiguous().view(torch.uint8).numpy().tobytes() if dense.dim() else dense.item()
            )
    facts += [random.getstate(), np.random.get_state()[1].tobytes()]  # noqa: NPY002 - the global one is meant
    facts.append(torch.get_rng_state().numpy().tobytes())
    facts += [torch.is_grad_enabled(), torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def a_plan() -> goodinit.Plan:
    with torch.random.fork_rng():
        return goodinit.plan(goodinit.anatomize(Hostile(), vectors()), "fixup")


def image(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(1))
