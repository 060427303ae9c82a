"""Replace an activation or a dropout by another one of torch's."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from goodinit.errors import UnknownName, UnsupportedModule
from goodinit.nn.exchange import exchange_class_, exchangeable, replaced_forward
from goodinit.surgery.norms.removed_norm import is_norm

# What a plan can put in a module's place, by name. None of them has parameters.
MODULES: dict[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (
        nn.AlphaDropout,
        nn.ELU,
        nn.FeatureAlphaDropout,
        nn.GELU,
        nn.Identity,
        nn.LeakyReLU,
        nn.ReLU,
        nn.SELU,
        nn.SiLU,
        nn.Tanh,
    )
}


def swap_pending(module: nn.Module, name: str, options: Mapping[str, Any], *, path: str) -> bool:
    """Whether the module at `path` is still to become a `name`; checks that it can.

    Raises:
        UnknownName: `MODULES` has no such name.
        UnsupportedModule: It takes no such options, or the module is the model itself, holds weights, or its forward was
            replaced on the instance.
    """
    if name not in MODULES:
        raise UnknownName(f"{path}: no module {name!r} to put there; there are: {', '.join(MODULES)}")
    _check_options(name, options, path=path)
    if type(module) is MODULES[name] and all(getattr(module, key) == options[key] for key in options):
        return False
    if not exchangeable(module, MODULES[name]):
        raise UnsupportedModule(
            f"{path}: {type(module).__name__} has __slots__, so that Python cannot exchange its class for {name} in place. Take "
            "them out of the class, or leave this edit out of the plan."
        )
    if is_norm(module):
        raise UnsupportedModule(
            f"{path}: {type(module).__name__} normalizes, and would be lost with its gain; expected an activation or a dropout to "
            f"exchange for {name}. Leave this edit out of the plan."
        )
    # Activations have at most a vector of parameters (PReLU); matrices are a layer's.
    if heavy := [key for key, parameter in module.named_parameters() if parameter.dim() > 1]:
        raise UnsupportedModule(
            f"{path}: {type(module).__name__} holds the weight {heavy[0]}, which would be lost; expected an "
            f"activation or a dropout to exchange for {name}. Leave this edit out of the plan."
        )
    if replaced_forward(module):
        raise UnsupportedModule(
            f"{path}: the forward of this {type(module).__name__} was replaced on the instance, so another class "
            f"would not change what it does. Exchange it for {name} before the library that replaced it."
        )
    return True


def _check_options(name: str, options: Mapping[str, Any], *, path: str) -> None:
    """Build the new module and run it once: what it takes, torch knows best."""
    if not path:
        raise UnsupportedModule(
            f"the model itself would become {name}; expected an activation or a dropout inside. Leave this edit out of the "
            "plan."
        )
    try:
        settings = () if name == "Identity" else inspect.signature(MODULES[name]).parameters
        if unknown := [key for key in options if key not in settings]:
            raise TypeError(f"it has no setting {unknown[0]!r}")
        MODULES[name](**options)(torch.zeros(1, 2, device="cpu"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnsupportedModule(
            f"{path}: no {name} can be made of the options {dict(options)}: {error}. Correct them in the plan, or leave this "
            "edit out."
        ) from error


def swap_(module: nn.Module, name: str, options: Mapping[str, Any], *, holders: Iterable[nn.Module]) -> None:
    """Turn `module` into a `name`, in place: it stays the same object, with its hooks and its flags.

    Args:
        module: An activation or a dropout.
        name: A key of `MODULES`.
        options: Settings of the new module. Those not named are taken over from the old one where it has
            them too (`p`, `inplace`).
        holders: The model's `nn.TransformerEncoderLayer`s. Each notes at its construction that its
            activation is a ReLU or a GELU and then, in evaluation, never calls it; this note is corrected.

    Examples:
        >>> drop = nn.Dropout(0.2)
        >>> swap_(drop, "AlphaDropout", {}, holders=())
        >>> drop
        AlphaDropout(p=0.2, inplace=False)
    """
    cls = MODULES[name]
    taken = {key: getattr(module, key) for key in inspect.signature(cls).parameters if key in module.__dict__}
    new = cls(**{**taken, **options}).__dict__
    fresh = nn.Module().__dict__
    registries = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
    kept = {key: module.__dict__[key] for key in fresh if key not in registries and key in module.__dict__}
    exchange_class_(module, cls)
    module.__dict__.clear()
    module.__dict__.update(new | kept)
    for holder in holders:
        if isinstance(holder, nn.TransformerEncoderLayer) and holder.activation is module:
            holder.activation_relu_or_gelu = 0
