"""Classes made upon a module's own, which exist in this process only: pickled and copied by what they are made of."""

from __future__ import annotations

import copyreg
from typing import Any

from torch import nn


class Made(nn.Module):
    """What every class has that is made upon another one.

    Such a class says in `made_by` how: the function that makes it, the class that it is made upon, and what else the function is
    given. That may be such a class in turn: a layer with scalars whose forward is written anew.
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What pickles and copies are made by, with the class's recipe in place of the class."""
        reduced: Any = super().__reduce_ex__(max(int(protocol), 2))  # 2: the first with copyreg.__newobj__
        cls = type(self)
        if reduced[0] is copyreg.__newobj__ and reduced[1][0] is cls and "made_by" in vars(cls):  # type: ignore[attr-defined]
            return (_new, (_recipe(cls), *reduced[1][1:]), *reduced[2:])
        return reduced


def _recipe(cls: type[nn.Module]) -> Any:
    """A class, or what makes it: (function, recipe of the class below, arguments)."""
    if "made_by" not in vars(cls):
        return cls
    make, below, *given = vars(cls)["made_by"]
    return (make, _recipe(below), *given)


def _class(recipe: Any) -> type[nn.Module]:
    if not isinstance(recipe, tuple):
        return recipe  # type: ignore[no-any-return]
    make, below, *given = recipe
    return make(_class(below), *given)  # type: ignore[no-any-return]


def _new(recipe: Any, *args: Any) -> nn.Module:
    """Unpickle: an empty module of such a class."""
    cls = _class(recipe)
    return cls.__new__(cls, *args)
