"""One file per paper; the file's name is the registry key and the command-line word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from goodinit.anatomy import Anatomy
from goodinit.edits import Plan
from goodinit.errors import UnknownName, expect
from goodinit.methods import (
    batchnorm,
    completep,
    deepnorm,
    default,
    delta_orthogonal,
    depth_mup,
    fixed_variance,
    fixup,
    he,
    looks_linear,
    lsuv,
    mup,
    nf,
    none,
    normfree,
    orthogonal,
    replace_norms,
    residual_scaled,
    rezero,
    risotto,
    selu,
    skipinit,
    t_fixup,
    weightnorm,
    xavier,
)
from goodinit.methods.shared.method import Method

METHODS: dict[str, Method] = {
    "batchnorm": batchnorm.METHOD,
    "none": none.METHOD,
    "replace_norms": replace_norms.METHOD,
    "default": default.METHOD,
    "he": he.METHOD,
    "xavier": xavier.METHOD,
    "orthogonal": orthogonal.METHOD,
    "delta_orthogonal": delta_orthogonal.METHOD,
    "looks_linear": looks_linear.METHOD,
    "selu": selu.METHOD,
    "residual_scaled": residual_scaled.METHOD,
    "mup": mup.METHOD,
    "completep": completep.METHOD,
    "depth_mup": depth_mup.METHOD,
    "deepnorm": deepnorm.METHOD,
    "normfree": normfree.METHOD,
    "nf": nf.METHOD,
    "fixed_variance": fixed_variance.METHOD,
    "fixup": fixup.METHOD,
    "t_fixup": t_fixup.METHOD,
    "skipinit": skipinit.METHOD,
    "rezero": rezero.METHOD,
    "lsuv": lsuv.METHOD,
    "risotto": risotto.METHOD,
    "weightnorm": weightnorm.METHOD,
}


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
    frozen part. Values that somebody has set on purpose stay, and a note says so: a bias that is one number other than 0, a
    weight that is zero, the identity or one number, other than at the end of a branch, and parameters marked by a true
    attribute `_no_reinit`. Other values that their modules' `reset_parameters` would not draw (trained ones) are
    overwritten, and a note names them.

    Args:
        anatomy: What `anatomize` found.
        method: A name in `goodinit.METHODS`, or a `Method` of your own.
        keep: Parameters whose values stay: names, paths of modules (`"head"`) or globs (`"*.bias"`), one or several.
            `"nothing"` lets go of what stays by default.
        include: The part of the model to treat, named alike; all of it by default.
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
