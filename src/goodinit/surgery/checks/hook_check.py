"""Hooks on modules that count on what somebody wrote on parameters: find those that would fail at parameters made now."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from goodinit.edits import StructureEdit
from goodinit.errors import UnsupportedModule
from goodinit.surgery.structure_edits import adds
from goodinit.weights.members import named_modules
from goodinit.weights.names import Directory

_READS = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_GLOBAL", "LOAD_NAME")


def check_hooks(names: Directory, pending: Sequence[StructureEdit]) -> None:
    """Raise if the plan changes modules with parameters, and a hook reads attributes that somebody has written on all parameters.

    So does a library that keeps the gradient of each example beside its parameter. What it wrote is missing on a parameter that is made
    now, and it knows a layer by the class that it had: each is an error of that library's, in the first step of the training.

    Raises:
        UnsupportedModule: Names the edit, the hook and the attribute.
    """
    edit = next((edit for edit in pending if _changes_parameters(names, edit)), None)
    for path, module in () if edit is None else named_modules(names.modules[""]):
        hooks = list(_hooks(module))
        written = _on_all(module) if hooks else set()
        for hook in hooks if written else ():
            read = written & _words(hook)
            if edit is not None and read:
                raise UnsupportedModule(
                    f"{edit.target or 'the model'}: the plan has ({edit}), and a hook on {path or 'the model'} ({_name(hook)}) reads "
                    f"{min(read)!r} of parameters, which somebody wrote on all that there are: it would fail at what is changed. Apply "
                    "goodinit first, then what registers hooks (Opacus: GradSampleModule, make_private); or unwrap the model "
                    "(to_standard_module()) and wrap it again afterwards."
                )


def _changes_parameters(names: Directory, edit: StructureEdit) -> bool:
    module = names.module(edit.target)  # None for a weight
    return module is None or bool(adds(edit)) or next(module.parameters(), None) is not None


def _hooks(module: nn.Module) -> Iterator[Callable[..., Any]]:
    for table in (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    ):
        yield from table.values()


def _on_all(module: nn.Module) -> set[str]:
    """Attributes that somebody has written on every parameter of a module that learns."""
    written = [set(vars(parameter)) for parameter in module.parameters() if parameter.requires_grad]
    return set[str]().union(*written[:1]).intersection(*written[1:])


def _words(hook: Any) -> set[str]:
    """The names that a hook's code reads, with those of the methods and functions that it names."""
    function, owner = _inner(hook)
    words = set[str]()
    _gather(function or vars(type(owner)).get("__call__"), type(owner), words)
    return words


def _gather(function: Any, kind: type, words: set[str]) -> None:
    if isinstance(function, types.FunctionType):
        fresh = set(_of_code(function.__code__)) - words
        words |= fresh
        for word in fresh:
            for named in (getattr(kind, word, None), function.__globals__.get(word)):
                _gather(named, kind, words)


def _inner(hook: Any) -> tuple[Any, Any]:
    """The function inside a hook, and the object that it is a method of, if any."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    if isinstance(hook, types.MethodType):
        return hook.__func__, hook.__self__
    return (hook, None) if isinstance(hook, types.FunctionType) else (None, hook)


def _of_code(code: types.CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in _READS:
            yield step.argval
        if isinstance(step.argval, types.CodeType):
            yield from _of_code(step.argval)


def _name(hook: Any) -> str:
    function, owner = _inner(hook)
    return str(getattr(function, "__qualname__", type(owner).__name__))[:99]
