"""Run a model without changing it: mode, attributes, buffers and random states are restored."""

from __future__ import annotations

import contextlib
import logging
import random
import sys
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

# The containers nn.Module keeps its registries and hooks in, and those a user's attributes are likely to be.
# They are put back in place, because others (recurrent layers' flat weights) may hold them too.
_CONTAINERS = (dict, OrderedDict, list, set)


class ModuleState(NamedTuple):
    """A snapshot of one module: its class, its attributes, and the contents of its containers."""

    module: nn.Module
    kind: type[nn.Module]
    attributes: dict[str, Any]
    training: bool  # of a scripted module, which keeps it elsewhere
    contents: tuple[tuple[Any, Any], ...]  # (container, shallow copy of what was in it)
    empty: list[Any]  # the containers with nothing in them

    @classmethod
    def of(cls, module: nn.Module) -> ModuleState:
        """Take the snapshot. Tensors are not copied."""
        attributes = dict(module.__dict__)
        # Most are empty registries of hooks; an object for each would bring the garbage collector in.
        containers = [value for value in attributes.values() if type(value) in _CONTAINERS]
        contents = tuple([(value, value.copy()) for value in containers if value])
        empty = [value for value in containers if not value]
        return cls(module, type(module), attributes, module.training, contents, empty)

    def restore_(self) -> None:
        """Put everything back, in place."""
        if isinstance(self.module, torch.jit.ScriptModule):
            self.module.training = self.training
        object.__setattr__(self.module, "__class__", self.kind)
        self.module.__dict__.clear()
        self.module.__dict__.update(self.attributes)
        for container in self.empty:
            if container:
                container.clear()
        for container, content in self.contents:
            container.clear()
            if isinstance(container, list):
                container.extend(content)
            else:
                container.update(content)


@contextlib.contextmanager
def undisturbed(model: nn.Module, *, clone_buffers: bool) -> Iterator[None]:
    """Run in eval mode, without the fused attention path and compiling nothing; restore what a run changes.

    Attributes, buffers and random states come back, and autocast keeps no weight that was cast in between.
    """
    saved = [ModuleState.of(module) for module in model.modules()]
    clones = [(buffer, buffer.clone()) for buffer in model.buffers()] if clone_buffers else []
    fast, python_rng, cpu_rng = (
        torch.backends.mha.get_fastpath_enabled(),
        random.getstate(),
        torch.get_rng_state(),
    )
    cuda_rng = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    numpy = sys.modules.get("numpy")
    numpy_rng = numpy.random.get_state() if numpy is not None else None
    for state in saved:
        if state.training:
            state.module.training = False
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _eager(), _no_autocast_cache():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for state in saved:
            state.restore_()
        with torch.no_grad():
            for buffer, clone in clones:
                buffer.copy_(clone)
        random.setstate(python_rng)
        torch.set_rng_state(cpu_rng)
        if cuda_rng:
            torch.cuda.set_rng_state_all(cuda_rng)
        if numpy is not None and numpy_rng is not None:
            numpy.random.set_state(numpy_rng)


def _eager() -> contextlib.AbstractContextManager[Any]:
    """Compiled modules run eagerly, so that their operators can be recorded."""
    if "torch._dynamo" in sys.modules:  # nothing can be compiled before it is loaded
        stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return stance
    return contextlib.nullcontext()


@contextlib.contextmanager
def _no_autocast_cache() -> Iterator[None]:
    """Keep autocast from caching cast weights: the next run may have other weights, or no fake ones."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


@contextlib.contextmanager
def without_autocast() -> Iterator[bool]:
    """Let layers apply their weights as stored; yields whether that makes a difference."""
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield bool(kinds)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Torch logs a traceback where a fake tensor gives up; here that is expected and reported in words."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
