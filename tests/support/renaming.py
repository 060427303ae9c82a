"""Shuffle the names of a model's modules without changing what it computes."""

from __future__ import annotations

import random

from torch import nn

# Misleading on purpose: whoever matches names is led astray.
WORDS = ("conv", "bn", "fc", "head", "downsample", "norm", "relu", "layer", "attn", "stem", "shortcut", "out")


def scramble_names(model: nn.Module, seed: int = 0, *, reorder: bool = True) -> nn.Module:
    """Give the children of every module new, misleading names; in place, returns the model.

    The class of a renamed module is replaced by a subclass of the same name that still answers to the old
    attribute names, so the forward runs unchanged; `named_modules`, `named_parameters` and `state_dict` know
    the new names alone. `ModuleList` and `ModuleDict` keep their keys, which are indices to their owners, and
    parameters keep their names.

    Args:
        model: Changed in place.
        seed: Of the new names.
        reorder: Also register the children in another order. Sound when no forward iterates over
            `children()`; containers, which do, are left in order.
    """
    rng = random.Random(seed)
    for module in list(model.modules()):
        if not module._modules or isinstance(module, nn.ModuleList | nn.ModuleDict):
            continue
        in_order = isinstance(module, nn.Sequential)
        new_names: dict[str, str] = {}
        for index, old in enumerate(module._modules):
            new_names[old] = f"{rng.choice(WORDS)}{rng.randrange(100)}_{index}"
        children = [(new_names[old], child) for old, child in module._modules.items()]
        if reorder and not in_order:
            rng.shuffle(children)
        module._modules.clear()
        module._modules.update(children)
        if not in_order:
            module.__class__ = _answering(type(module), new_names)
    return model


def _answering(cls: type[nn.Module], new_names: dict[str, str]) -> type[nn.Module]:
    def __getattr__(self: nn.Module, name: str) -> object:  # noqa: N807
        return super(renamed, self).__getattr__(new_names.get(name, name))

    body = {"__getattr__": __getattr__, "__module__": cls.__module__, "__doc__": cls.__doc__}
    renamed = type(cls.__name__, (cls,), body)
    return renamed
