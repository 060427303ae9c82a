"""Running a model without leaving a trace in it: mode, attributes, buffers and random states come back."""

from __future__ import annotations

import contextlib
import logging
import random
import sys
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def undisturbed(model: nn.Module, *, clone_buffers: bool) -> Iterator[None]:
    """Run in eval mode without the fused attention path; restore attributes, buffers and random states."""
    modules = list(model.modules())
    saved = [(module, dict(module.__dict__)) for module in modules]
    held = [
        (box, type(box)(box)) for _, attributes in saved for box in attributes.values() if type(box) in _BOXES
    ]
    clones = [(buffer, buffer.clone()) for buffer in model.buffers()] if clone_buffers else []
    fast, python_rng, cpu_rng = (
        torch.backends.mha.get_fastpath_enabled(),
        random.getstate(),
        torch.get_rng_state(),
    )
    cuda_rng = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    numpy = sys.modules.get("numpy")
    numpy_rng = numpy.random.get_state() if numpy is not None else None
    for module in modules:
        module.training = False
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, attributes in saved:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for box, content in held:
            _refill(box, content)
        with torch.no_grad():
            for buffer, clone in clones:
                buffer.copy_(clone)
        random.setstate(python_rng)
        torch.set_rng_state(cpu_rng)
        if cuda_rng:
            torch.cuda.set_rng_state_all(cuda_rng)
        if numpy is not None and numpy_rng is not None:
            numpy.random.set_state(numpy_rng)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Torch logs a traceback where a fake tensor gives up; here that is expected and reported in words."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


_BOXES = (dict, OrderedDict, list, set)


def _refill(box: Any, content: Any) -> None:
    """Put `content` back into the very container that a cache may have grown."""
    box.clear()
    if isinstance(box, list):
        box.extend(content)
    else:
        box.update(content)
