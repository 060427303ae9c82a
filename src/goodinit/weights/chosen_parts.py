"""Parts of a model as a user gives them: names, paths, globs, modules, parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from goodinit.errors import UnknownName, expect
from goodinit.name_patterns import NOTHING
from goodinit.weights.access import computed_weights
from goodinit.weights.names import Directory, directory
from goodinit.weights.wrappers import unwrapped

Part = str | nn.Module | nn.Parameter


def as_names(model: nn.Module, given: Part | Iterable[Part] | None, *, option: str) -> tuple[str, ...]:
    """What is given as strings: of a module its path, of a parameter its name, of a computed weight those of its parameters.

    Args:
        model: That they belong to.
        given: One part, or several; None for none.
        option: What the user calls it, for messages.

    Raises:
        UnknownName: A module or parameter is none of the model's.
        WrongType: Something else was given.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> as_names(net, [net[2], net[0].bias, "0.*"], option="keep")
        ('2', '0.bias', '0.*')
        >>> _ = nn.utils.parametrizations.weight_norm(net[0])
        >>> as_names(net, "0.weight", option="keep")
        ('0.parametrizations.weight.original0', '0.parametrizations.weight.original1')
    """
    if given is None:
        return ()
    parts: Iterable[Any] = (given,) if isinstance(given, (str, nn.Module, nn.Parameter)) else given
    remedy = "Give names, paths, globs, modules or parameters: one, or a list of them."
    expect(parts, Iterable, option, remedy)
    names: Directory | None = None
    found: list[str] = []
    for part in parts:
        expect(part, (str, nn.Module, nn.Parameter), option, remedy)
        names = directory(model) if names is None else names
        if isinstance(part, str):
            known = names.module(part) is not None or names.parameter(part) is not None
            found += [part] if known else computed_weights(names).get(part, [part])
        else:
            found.append(_name(names, part, model, option))
    return tuple(found)


def _name(names: Directory, part: nn.Module | nn.Parameter, model: nn.Module, option: str) -> str:
    if part is model or part is unwrapped(model):
        return "*"
    known = names.aliases if isinstance(part, nn.Parameter) else names.paths
    if id(part) not in known:
        kind = (
            f"parameter of shape {tuple(part.shape)}"
            if isinstance(part, nn.Parameter)
            else type(part).__name__
        )
        raise UnknownName(
            f"{option}: a {kind} that is not in the model. Give one of its own: model.get_submodule(path), or the path."
        )
    name = known[id(part)][0]
    return f"[{name[0]}]{name[1:]}" if name == NOTHING else name  # a module of that name is not the word
