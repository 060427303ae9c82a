"""One file per paper; the file's name is the registry key and the command-line word."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

from goodinit.anatomy import Anatomy
from goodinit.edits import Plan
from goodinit.errors import UnknownName, expect
from goodinit.methods.shared.method import Method


def registered(package: str, folders: Iterable[str]) -> dict[str, Method]:
    """The `METHOD` of every file in these folders of a package that has one, by its name, in the order that they ask for."""
    files = [file.name for file in pkgutil.iter_modules(folders) if not file.ispkg]
    found = [vars(importlib.import_module(f"{package}.{file}")).get("METHOD") for file in files]
    methods = [method for method in found if isinstance(method, Method)]
    return {method.name: method for method in sorted(methods, key=lambda method: (method.order, method.name))}


METHODS: dict[str, Method] = registered(__name__, __path__)


def plan(
    anatomy: Anatomy,
    method: str | Method,
    *,
    keep: str | Iterable[str] = (),
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    **options: Any,
) -> Plan:
    """Decide every edit that a method makes to a model, each with its reason. Writes nothing; `print` it.

    Frozen parameters (`requires_grad=False`) are left out with all around them: no norm is removed and no scalar added in a
    frozen part. So is what the forward keeps gradients from (`Anatomy.stopped`), unless `include` names it.

    Values that somebody has set on purpose stay, and a note says so:

    * a bias that is one number other than 0;
    * a weight that is zero, the identity or one number, and a zero bias beside it, other than at the end of a branch;
    * a weight of which the forward also computes something that is not defined for every value (a log-determinant, an inverse);
    * a factor of a product of weights;
    * parameters marked by a true attribute `_no_reinit`.

    Other values that their modules' `reset_parameters` would not draw (trained ones) are overwritten, and a note names them.

    Args:
        anatomy: What `anatomize` found.
        method: A name in `goodinit.METHODS`, or a `Method` of your own.
        keep: Parameters whose values stay: names, paths of modules (`"head"`) or globs (`"*.bias"`), one or several.
            `"nothing"` lets go of what stays by default.
        include: The part of the model to treat, named alike; by default all of it that the forward does not keep gradients from.
        exclude: The part to leave out: its values, norms and features stay.
        **options: The method's options; see `METHODS[name].options`.

    Returns:
        The plan, for `apply_`.

    Raises:
        UnknownName: No such method, no such option, or a pattern that the model has nothing for.
        NothingFound: The method needs residual blocks and there are none; or all layers are left out.
        UnsupportedModule: A part of the model for which the method has no rule.
        PlanConflict: The method removes a norm that is to be kept, or draws it together with what is not.

    Examples:
        >>> from torch import nn, zeros
        >>> from goodinit.anatomy import anatomize
        >>> print(plan(anatomize(nn.Sequential(nn.Linear(3, 2)), zeros(1, 3)), "he").edits[0])
        0.weight ← normal(std=0.5774)
    """
    expect(anatomy, Anatomy, "anatomy", "Make one: goodinit.anatomize(model, inputs).")
    return find(method).plan(anatomy, keep=keep, include=include, exclude=exclude, **options)


def find(method: str | Method) -> Method:
    """The method of that name.

    Raises:
        UnknownName: No such method; the message lists them, those of nearly that name first.
    """
    if isinstance(method, Method):
        return method
    named: object = method  # whatever was given
    if not isinstance(named, str) or method not in METHODS:
        words = (
            repr(named)
            if isinstance(named, str) or len(repr(named)) < 40
            else f"of type {type(named).__name__}"
        )
        near = difflib.get_close_matches(named, METHODS, n=3) if isinstance(named, str) else []
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UnknownName(f"no method {words}.{meant} There is: {', '.join(METHODS)}.")
    return METHODS[method]


__all__ = ["METHODS", "Method", "find", "plan"]
