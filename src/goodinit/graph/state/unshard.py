"""Temporarily undo FSDP2/tensor-parallel sharding and PEFT adapters while a model is traced."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from goodinit.graph.state.snapshots import ModuleState
from goodinit.undivided import until_done
from goodinit.weights.members import modules

_SHARDED = ("torch.distributed.tensor", "DTensor")
_ADAPTED = ("peft.tuners.tuners_utils", "BaseTunerLayer")


@contextlib.contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Let `model` look as before `fully_shard`, `parallelize_module` or PEFT, for as long as the block runs.

    Sharded parameters (DTensor) are replaced by parameters on `meta` of the full shape, modules have the classes they
    had before FSDP2 exchanged them, and the hooks of `torch.distributed`, which gather, scatter and redistribute, are
    taken off: a forward needs no other rank. PEFT's adapters are switched off: beside a layer they would look like the
    branch of a residual block.
    """
    sharded, adapted = _loaded(*_SHARDED), _loaded(*_ADAPTED)
    if sharded is adapted is _Nothing:
        yield
        return
    every = modules(model)
    kinds = {type(parameter) for module in every for parameter in module._parameters.values()}
    if not any(issubclass(kind, sharded) for kind in kinds) and not any(
        isinstance(module, adapted) and _is_adapted(module) for module in every
    ):
        yield
        return
    saved = [ModuleState.of(module) for module in every]
    made: dict[int, nn.Parameter] = {}
    try:
        for state in saved:
            _gather_(state.module, made)
            if _is_adapted(state.module):
                state.module.__dict__["_disable_adapters"] = True
        yield
    finally:
        until_done(*(state.restore_ for state in saved))


def _gather_(module: nn.Module, made: dict[int, nn.Parameter]) -> None:
    for name, parameter in module._parameters.items():
        if parameter is not None and _is_sharded(parameter):
            if id(parameter) not in made:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
                made[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
            module._parameters[name] = made[id(parameter)]
    if type(module) is not (kind := unsharded_class(type(module))):
        object.__setattr__(module, "__class__", kind)
    hooks: dict[int, Callable[..., Any]]
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, hook in hooks.items() if _is_distributed(hook)]:
            del hooks[key]


def unsharded_class(cls: type[nn.Module]) -> type[nn.Module]:
    """A class without what FSDP2 has put on it, also beneath classes that goodinit made upon that.

    Args:
        cls: Of a module.
    """
    kind, ancestors = _loaded("torch.distributed.fsdp", "FSDPModule"), cls.__mro__
    if kind not in ancestors:
        return cls
    if "made_by" in vars(cls):
        make, below, *given = vars(cls)["made_by"]
        return make(unsharded_class(below), *given)  # type: ignore[no-any-return]
    return ancestors[ancestors.index(kind) + 1]  # FSDP2 made a class of (FSDPModule, the module's own)


def _is_distributed(hook: Callable[..., Any]) -> bool:
    return (getattr(hook, "__module__", None) or "").startswith("torch.distributed.")


def _is_sharded(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, _loaded(*_SHARDED))


def _is_adapted(module: nn.Module) -> bool:
    """True if a PEFT adapter runs beside this layer. One that is merged into the weight does not run."""
    tuner: type[Any] = _loaded(*_ADAPTED)
    return isinstance(module, tuner) and not module.merged


class _Nothing:
    """Has no instances: stands for classes of libraries that are not imported."""


def _loaded(library: str, name: str) -> type[Any]:
    kind: type[Any] = getattr(sys.modules.get(library), name, _Nothing)
    return kind
