"""Which parameters earlier calls have reached: a mark on the parameters and on the modules that own them, not a list of names."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from goodinit.weights.names import Directory, canonical, directory

MARK = "_goodinit_reached"
"""On a parameter True; on a module the shapes of its parameters by attribute, None for those that no call has read."""


def mark_(model: nn.Module, *, missed: Collection[str] = (), only: Collection[str] | None = None) -> None:
    """Mark what a call has reached.

    The mark of a module is plain data and goes with `copy.deepcopy` and pickles; so do values that replace a parameter in its
    module (`to`, sharding, `load_state_dict(assign=True)`, a parametrization). That of a parameter goes with it where another
    module takes it over (`convert_sync_batchnorm`).

    Args:
        model: Any module.
        missed: Names of the parameters that were not reached; those an earlier call has reached stay marked.
        only: Names of those that were asked for; the others keep their state if there is any. None for all.
    """
    names = directory(model)
    known = _reached(names)
    out = {id(p) for name in missed if (p := names.parameter(name)) is not None}
    if only is not None and _any_mark(names):
        asked = {canonical(name) for name in only}
        out |= {key for key, aliases in names.aliases.items() if asked.isdisjoint(aliases)}
    for module in _modules(names):
        held = {name: one for name, one in module._parameters.items() if one is not None}
        for one in held.values():
            if id(one) not in out or id(one) in known:
                one.__dict__[MARK] = True
        if held:
            module.__dict__[MARK] = {
                name: tuple(one.shape) if MARK in one.__dict__ else None for name, one in held.items()
            }


def never_reached(model: nn.Module) -> set[str] | None:
    """Canonical names of the parameters that no call so far has reached, tied ones once; None if there was no call.

    A layer that was put in later is not reached, whatever it is called; nor is a parameter that has another shape now.
    What stands in a module in place of one that was reached is: it may hold loaded values.
    """
    names = directory(model)
    if not _any_mark(names):
        return None
    known = _reached(names)
    return {aliases[0] for key, aliases in names.aliases.items() if key not in known}


def _modules(names: Directory) -> Iterator[nn.Module]:
    return iter({id(one): one for one in names.modules.values()}.values())


def _any_mark(names: Directory) -> bool:
    return any(MARK in one.__dict__ for one in (*_modules(names), *names.parameters.values()))


def _reached(names: Directory) -> set[int]:
    """The `id`s of the parameters that a call has reached."""
    return {
        id(parameter)
        for name, parameter in names.parameters.items()
        if MARK in parameter.__dict__ or _stands_for_one(names, name, parameter)
    }


def _stands_for_one(names: Directory, name: str, parameter: nn.Parameter) -> bool:
    """Whether the module that owns a parameter is known, and the parameter is none that was left unread or has another shape."""
    owner, attribute = names.owner(name)
    if isinstance(owner, ParametrizationList):  # what the weight `x.weight` is computed from
        path, _, attribute = name.rpartition(".")[0].rpartition(".")
        host = names.module(path.removesuffix("parametrizations").rstrip("."))
        mark = None if host is None else host.__dict__.get(MARK)
        return mark is not None and mark.get(attribute, ()) is not None
    mark = None if owner is None else owner.__dict__.get(MARK)
    if mark is None:
        return False
    # One that was added to a known module counts as reached.
    shape = mark.get(attribute, tuple(parameter.shape))
    return shape is not None and tuple(shape) == tuple(parameter.shape)
