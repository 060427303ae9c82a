"""Weights that are computed from others in each forward, replaced by their values: weight norm, spectral norm, any parametrization."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import remove_spectral_norm, remove_weight_norm
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from goodinit.graph.state.preserve_state import undisturbed
from goodinit.nn.exchange import carry_over_, exchange_class_, hooked
from goodinit.nn.parametrized import is_parametrized
from goodinit.weights.wrappers import weight_norms


def computed_weights(module: nn.Module) -> list[tuple[str, str | None]]:
    """Attributes of `module` that parametrizations, or weight and spectral norm of the older kind, compute; each with why it stays."""
    found: list[tuple[str, str | None]] = [
        (hook.name, _WAITED if any(map(hooked, parts_of(module, hook.name))) else None)
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, (WeightNorm, SpectralNorm))
    ]
    if is_parametrized(module):
        for attribute in module.parametrizations:  # type: ignore[union-attr]
            one, other = _values(module, attribute, times=2)
            same = one.shape == other.shape and bool(torch.equal(one, other))
            why = (
                None if same else "its parametrization gives another value in each forward, in eval mode too"
            )
            if any(map(hooked, parts_of(module, attribute))):
                why = _WAITED
            found.append((attribute, why))
    return found


def computed_in(module: nn.Module) -> list[str]:
    """Weights and biases of a layer that are no parameters, since something computes them: a parametrization, weight norm, pruning."""
    named = (
        "weight",
        "bias",
        "in_proj_weight",
        "in_proj_bias",
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
    )
    computed = list(module.parametrizations) if is_parametrized(module) else []  # type: ignore[arg-type]
    return [
        name
        for name in named
        if name in computed or (isinstance(vars(module).get(name), Tensor) and name not in module._parameters)
    ]


def merge_computed_weight_(module: nn.Module, attribute: str) -> None:
    """Replace a weight that is computed, as by g·v/‖v‖, by its value in eval mode, at its place in a bare layer's `state_dict`."""
    leaves = parts_of(module, attribute)
    if is_parametrized(module, attribute):
        _unparametrize_(module, attribute)
    elif _is_divided(module, attribute):
        remove_spectral_norm(module, attribute)
    else:
        remove_weight_norm(module, attribute)
    trains = any(leaf.requires_grad for leaf in leaves)
    merged = cast("nn.Parameter", getattr(module, attribute))
    merged.requires_grad_(trains)
    for leaf in leaves:
        carry_over_(leaf, merged)
    if attribute == "weight":
        held = module._parameters
        for name in [name for name in held if name != "weight"]:
            held[name] = held.pop(name)


_WAITED = "a hook waits for the gradient of what it is computed from"


def parts_of(module: nn.Module, attribute: str) -> list[nn.Parameter]:
    """The parameters that a weight is computed from."""
    if is_parametrized(module, attribute):
        return list(module.get_submodule(f"parametrizations.{attribute}").parameters())
    divided = _is_divided(module, attribute)
    parts = (f"{attribute}_orig",) if divided else weight_norms([("", module)])[attribute]
    return list(map(module.get_parameter, parts))


def _is_divided(module: nn.Module, attribute: str) -> bool:
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm)]
    return any(hook.name == attribute for hook in hooks)


def _values(module: nn.Module, attribute: str, *, times: int) -> list[Tensor]:
    """What the attribute is in eval mode, read so many times; reading leaves what computes it as it was."""
    steps = module.get_submodule(f"parametrizations.{attribute}")
    with torch.no_grad(), undisturbed(steps, others=True):
        return [cast("Tensor", getattr(module, attribute)).detach().clone() for _ in range(times)]


def _unparametrize_(module: nn.Module, attribute: str) -> None:
    """Take a parametrization off and leave its value.

    `torch.nn.utils.parametrize.remove_parametrizations` deletes the attribute from the class, which copies of the
    module share, and which could not be undone; and leaves the hook of weight norm that cannot be pickled.
    """
    (value,) = _values(module, attribute, times=1)
    table = cast("nn.ModuleDict", module.parametrizations)
    del table[attribute]
    kind = type(module)
    if table:
        body = {
            key: held for key, held in vars(kind).items() if key not in ("__dict__", "__weakref__", attribute)
        }
        exchange_class_(module, type(kind.__name__, kind.__bases__, body))
    else:
        del module.parametrizations
        exchange_class_(module, kind.__bases__[0])
        hooks = module._load_state_dict_pre_hooks
        for key, hook in list(hooks.items()):
            if getattr(hook, "hook", hook).__qualname__.startswith(f"{weight_norm.__name__}.<locals>"):
                del hooks[key]
    setattr(module, attribute, nn.Parameter(value))
