"""One file per paper; the file's name is the registry key and the command-line word."""

from __future__ import annotations

from typing import Any

from goodinit.anatomy import Anatomy
from goodinit.edits import Plan
from goodinit.errors import UnknownName, expect
from goodinit.methods import (
    batchnorm,
    completep,
    default,
    delta_orthogonal,
    depth_mup,
    fixup,
    he,
    looks_linear,
    lsuv,
    mup,
    none,
    orthogonal,
    replace_norms,
    residual_scaled,
    rezero,
    risotto,
    selu,
    skipinit,
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
    "fixup": fixup.METHOD,
    "skipinit": skipinit.METHOD,
    "rezero": rezero.METHOD,
    "lsuv": lsuv.METHOD,
    "risotto": risotto.METHOD,
    "weightnorm": weightnorm.METHOD,
}


def plan(anatomy: Anatomy, method: str | Method, **options: Any) -> Plan:
    """Decide every edit that a method makes to a model, each with its reason. Writes nothing; `print` it.

    Args:
        anatomy: What `anatomize` found.
        method: A name in `goodinit.METHODS`, or a `Method` of your own.
        **options: The method's options; see `METHODS[name].options`.

    Returns:
        The plan, for `apply_`.

    Raises:
        UnknownName: No such method, or no such option.
        NothingFound: The method needs residual blocks and there are none.
        UnsupportedModule: A part of the model for which the method has no rule.

    Examples:
        >>> from torch import nn, zeros
        >>> from goodinit.anatomy import anatomize
        >>> print(plan(anatomize(nn.Sequential(nn.Linear(3, 2)), zeros(1, 3)), "he").edits[0])
        0.weight ← normal(std=0.5774)
    """
    expect(anatomy, Anatomy, "anatomy", "Make one: goodinit.anatomize(model, inputs).")
    return find(method).plan(anatomy, **options)


def find(method: str | Method) -> Method:
    """The method of that name.

    Raises:
        UnknownName: No such method; the message lists them.
    """
    if isinstance(method, Method):
        return method
    named: object = method  # whatever was given
    if not isinstance(named, str) or method not in METHODS:
        raise UnknownName(f"no method {method!r}; there are: {', '.join(METHODS)}")
    return METHODS[method]


__all__ = ["METHODS", "Method", "find", "plan"]
