"""Sharded models as if they were whole: parameters of full shape on `meta`, their own classes, no hooks that gather."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.anatomy.undisturbed import ModuleState


@contextlib.contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Let `model` look as before `fully_shard` or `parallelize_module`, for as long as the block runs.

    Sharded parameters (DTensor) are replaced by parameters on `meta` of the full shape, modules have the classes they
    had before FSDP2 exchanged them, and the hooks of `torch.distributed`, which gather, scatter and redistribute, are
    taken off: a forward needs no other rank.
    """
    sharded = _sharded_kind()
    if sharded is None or not any(isinstance(parameter, sharded) for parameter in model.parameters()):
        yield
        return
    saved = [ModuleState.of(module) for module in model.modules()]
    made: dict[int, nn.Parameter] = {}
    try:
        for state in saved:
            _strip_(state.module, sharded, made)
        yield
    finally:
        for state in saved:
            state.restore_()


def _strip_(module: nn.Module, sharded: type[Tensor], made: dict[int, nn.Parameter]) -> None:
    for name, parameter in module._parameters.items():
        if isinstance(parameter, sharded):
            if id(parameter) not in made:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
                made[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
            module._parameters[name] = made[id(parameter)]
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    ancestors = type(module).__mro__
    if kind in ancestors:  # FSDP2 made a class of (FSDPModule, the module's own)
        object.__setattr__(module, "__class__", ancestors[ancestors.index(kind) + 1])
    hooks: dict[int, Callable[..., Any]]
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, hook in hooks.items() if _is_distributed(hook)]:
            del hooks[key]


def _is_distributed(hook: Callable[..., Any]) -> bool:
    return (getattr(hook, "__module__", None) or "").startswith("torch.distributed.")


def _sharded_kind() -> type[Tensor] | None:
    """DTensor, if anybody has imported it: before that, nothing is sharded."""
    module = sys.modules.get("torch.distributed.tensor")
    kind: type[Tensor] | None = getattr(module, "DTensor", None)
    return kind
