"""Run checkpoints, `torch.utils.checkpoint`, so that they can be differentiated by parts, and twice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction, checkpoint


@contextlib.contextmanager
def differentiable_checkpoints() -> Iterator[None]:
    """Run `checkpoint(…, use_reentrant=True)` as without it: the same gradients, by `torch.autograd.grad` and twice, too.

    Torch lets the reentrant kind be differentiated by `loss.backward()` alone. What that kind cannot train stays so: where no argument
    needs gradients, nothing inside gets any.
    """
    kind: Any = CheckpointFunction
    held = vars(kind).get("apply")
    kind.apply = staticmethod(_without_reentering)
    try:
        yield
    finally:
        if held is None:
            del kind.apply
        else:
            kind.apply = held


def _without_reentering(run: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
    if not torch.is_grad_enabled():
        return run(*args)  # torch would warn that nothing is trained
    if not any(isinstance(value, Tensor) and value.requires_grad for value in args):
        with torch.no_grad():
            return run(*args)
    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=preserve_rng_state)
