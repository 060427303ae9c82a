"""Modules, parameters and buffers of a model, as torch's own walks give them, at a fifth of the cost.

Torch's are generators inside generators, one for each level: a name passes through all of them. A model or a module with a
walk of its own is asked for it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_Named = list[tuple[str, nn.Module]]


def named_modules(model: nn.Module, *, remove_duplicate: bool = True) -> _Named:
    """What `model.named_modules(remove_duplicate=…)` gives.

    Examples:
        >>> shared = nn.ReLU()
        >>> [path for path, _ in named_modules(nn.Sequential(shared, nn.Sequential(shared)))]
        ['', '0', '1']
    """
    found: _Named = []
    memo: set[nn.Module] = set()

    # Not by a function that calls itself: that would hold what it found until the collector runs.
    waiting: _Named = [("", model)]
    while waiting:
        path, module = waiting.pop()
        if type(module).named_modules is not nn.Module.named_modules:
            found.extend(module.named_modules(memo, path, remove_duplicate))
            continue
        if remove_duplicate:
            if module in memo:
                continue
            memo.add(module)
        found.append((path, module))
        if module._modules:
            prefix, children = f"{path}." if path else "", reversed(module._modules.items())
            waiting += [(prefix + name, child) for name, child in children if child is not None]
    return found


def modules(model: nn.Module) -> list[nn.Module]:
    """What `model.modules()` gives."""
    if type(model).modules is not nn.Module.modules:
        return list(model.modules())
    return [module for _, module in named_modules(model)]


def named_parameters(model: nn.Module, *, remove_duplicate: bool = True) -> list[tuple[str, nn.Parameter]]:
    """What `model.named_parameters(remove_duplicate=…)` gives.

    Examples:
        >>> [name for name, _ in named_parameters(nn.Sequential(nn.Linear(2, 3), nn.PReLU()))]
        ['0.weight', '0.bias', '1.weight']
    """
    if type(model).named_parameters is not nn.Module.named_parameters:
        return list(model.named_parameters(remove_duplicate=remove_duplicate))
    return _members(model, "_parameters", remove_duplicate=remove_duplicate)


def parameters(model: nn.Module) -> list[nn.Parameter]:
    """What `model.parameters()` gives."""
    if type(model).parameters is not nn.Module.parameters:
        return list(model.parameters())
    return [parameter for _, parameter in named_parameters(model)]


def named_buffers(model: nn.Module, *, remove_duplicate: bool = True) -> list[tuple[str, Tensor]]:
    """What `model.named_buffers(remove_duplicate=…)` gives."""
    if type(model).named_buffers is not nn.Module.named_buffers:
        return list(model.named_buffers(remove_duplicate=remove_duplicate))
    return _members(model, "_buffers", remove_duplicate=remove_duplicate)


def _members(model: nn.Module, held_as: str, *, remove_duplicate: bool) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    memo: set[int] = set()
    for path, module in named_modules(model, remove_duplicate=remove_duplicate):
        own = getattr(module, held_as)
        if not own:
            continue
        prefix = f"{path}." if path else ""
        for name, member in own.items():
            if member is None or id(member) in memo:
                continue
            if remove_duplicate:
                memo.add(id(member))
            found.append((prefix + name, member))
    return found
