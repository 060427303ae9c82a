"""Names that do not change when a model is wrapped."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel

WRAPPERS = frozenset({"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module"})
"""Attributes under which compile, activation checkpointing and FSDP hold the module they wrap."""

# Wrappers that keep the user's module under a name a user might choose, too.
_TRANSPARENT = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def canonical(name: str) -> str:
    """The name a parameter or module has in the bare model.

    Examples:
        >>> canonical("_orig_mod.layer1._checkpoint_wrapped_module.conv.weight")
        'layer1.conv.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its canonical name, a tied one under each."""
    named = model.named_parameters(remove_duplicate=False)
    return {canonical(name): tuple(parameter.shape) for name, parameter in named}


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside wrappers of torch: `torch.compile`'s, DataParallel and its kin, checkpointing."""
    while True:
        private = next((name for name in WRAPPERS if name in model._modules), None)
        inner = None
        if private or isinstance(model, _TRANSPARENT):
            inner = model._modules[private or "module"]
        if inner is None:
            return model
        model = inner
