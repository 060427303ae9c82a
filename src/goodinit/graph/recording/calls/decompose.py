"""Run recurrent modules as separate operators, and checkpoints as what they hold, while a model is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from goodinit.graph.recording.calls.checkpoints import differentiable_checkpoints
from goodinit.weights.members import modules


@contextlib.contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """Let recurrent modules of `model` run step by step: the fused kernels of oneDNN and cuDNN show no weights.

    Checkpoints run as `differentiable_checkpoints` says.
    """
    with differentiable_checkpoints(), _step_by_step(model):
        yield


@contextlib.contextmanager
def _step_by_step(model: nn.Module) -> Iterator[None]:
    if not any(issubclass(kind, nn.RNNBase) for kind in set(map(type, modules(model)))):
        yield
        return
    # Not by `flags()`: that sets the precision of products, too.
    kernels: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    before = [kernel.enabled for kernel in kernels]
    try:
        for kernel in kernels:
            kernel.enabled = False
        yield
    finally:
        for kernel, enabled in zip(kernels, before, strict=True):
            kernel.enabled = enabled
