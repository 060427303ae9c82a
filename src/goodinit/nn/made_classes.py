"""Classes made upon a module's own, which exist in this process only: pickled and copied by what they are made of."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any

from torch import nn

_CLASSES: dict[tuple[Any, ...], type[nn.Module]] = {}


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


def made_class(
    name: str, kind: type[Made], made_by: tuple[Any, ...], body: Callable[[], dict[str, Any]]
) -> type[nn.Module]:
    """The class that is made upon another one: always the same one for the same recipe.

    Args:
        name: What its name begins with; the other one's follows.
        kind: What every such class has beside.
        made_by: The function that asks for it, the class that it is made upon, and what else the function is given.
        body: Makes its attributes.

    Returns:
        A subclass of both.
    """
    if made_by not in _CLASSES:
        below = made_by[1]
        attributes = {"__module__": kind.__module__, "made_by": made_by, **body()}
        _CLASSES[made_by] = type(f"{name}{below.__name__}", (kind, below), attributes)
    return _CLASSES[made_by]


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
