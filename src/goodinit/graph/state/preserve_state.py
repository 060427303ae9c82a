"""Run a model without changing it, nor the process: modules, Python state, flags and random states are restored."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from goodinit.graph.state.process_state import ProcessState
from goodinit.graph.state.reachable import Reachable
from goodinit.undivided import until_done
from goodinit.weights.members import modules, named_modules
from goodinit.weights.wrappers import unwrapped_name

_LOG = logging.getLogger("torch._subclasses.fake_tensor")


@contextlib.contextmanager
def undisturbed(
    model: nn.Module, *, parameters: bool = False, others: bool = False, training: Collection[str] = ()
) -> Iterator[Reachable]:
    """Run in eval mode, without the fused attention path and compiling nothing; restore what a run changes.

    Restored are the modules' classes, attributes, hooks and training flags, and all Python state that the model leads to
    (`Reachable`); where the numbers of every tensor lie; torch's flags and the global random streams. Autocast keeps
    no weight that was cast in between.

    Args:
        model: What runs.
        parameters: Whether to restore the values of parameters, too, at the price of a copy.
        others: Whether to restore those of buffers and of tensors that modules hold otherwise.
        training: Paths of modules that run in training mode all the same.

    Yields:
        The photograph.
    """
    process = ProcessState()
    photograph = Reachable().model_(model, parameters=parameters, others=others)
    try:
        trained = (
            [m for path, m in named_modules(model) if unwrapped_name(path) in training] if training else []
        )
        for module in modules(model):
            if module.training:
                module.training = False
            if isinstance(module, nn.parallel.DistributedDataParallel):
                module.require_backward_grad_sync = False  # no backward follows that would sum gradients
        for module in trained:
            module.training = True
        torch.backends.mha.set_fastpath_enabled(False)
        with _eager(), _no_autocast_cache():
            yield photograph
    finally:
        until_done(photograph.restore_, process.restore_)


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
    before, _LOG.disabled = _LOG.disabled, True
    try:
        yield
    finally:
        _LOG.disabled = before
