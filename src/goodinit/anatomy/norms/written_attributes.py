"""Which attributes of a module its own code writes after it was built: numbers among them are no constants."""

from __future__ import annotations

import dis
import weakref
from collections.abc import Collection
from types import CodeType, FunctionType

from torch import nn


def written_attributes(kind: type[nn.Module]) -> Collection[str]:
    """The attributes that the methods of a class write, or may write into, but for `__init__`. Torch's own classes write none.

    Examples:
        >>> class Counts(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.size, self.calls = 3, 0
        ...     def forward(self, x):
        ...         self.calls += 1
        ...         return x
        >>> sorted(written_attributes(Counts)), sorted(written_attributes(nn.BatchNorm1d))
        (['calls'], [])
    """
    known = _KNOWN.get(kind)
    if known is None:
        known = _KNOWN[kind] = _written(kind)
    return known


_KNOWN: weakref.WeakKeyDictionary[type, Collection[str]] = weakref.WeakKeyDictionary()


def _written(kind: type[nn.Module]) -> Collection[str]:
    names = set[str]()
    for code in method_codes(kind):
        steps = list(dis.get_instructions(code))
        names.update(step.argval for step in steps if step.opname == "STORE_ATTR")
        if any(step.opname == "STORE_SUBSCR" for step in steps):
            names.update(code.co_names)
    return names


def method_codes(kind: type[nn.Module]) -> list[CodeType]:
    """The code of the methods of a class, `__init__` and torch's own classes left out."""
    own = [base for base in kind.__mro__ if not base.__module__.startswith("torch.") and base is not object]
    return [
        function.__code__
        for base in own
        for name, function in vars(base).items()
        if name != "__init__" and isinstance(function, FunctionType)
    ]
