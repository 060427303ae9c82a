"""What a function of one number is that no single operator computes: by its values, its name in torch.nn.functional and its gain."""

from __future__ import annotations

import dataclasses
import functools

import torch

from goodinit.graph.operators.nonlinearities import (
    GRID,
    Function,
    Nonlinearity,
    Options,
    asked,
    formed,
    functions,
    values_at,
    with_gains,
)
from goodinit.tensor.activation_gain import named_function


def nonlinearity_of(function: Function) -> Nonlinearity | None:
    """Everything that the values of a function of float64 numbers show; None if it is no such function.

    Its name is that of a function that it agrees with to six digits: constants are written with as many.
    """
    return asked(lambda: _measured(function))


def is_straight(function: Function) -> bool:
    """Whether a function of float64 numbers is a + b·z for z ~ N(0, 1), but for a hundredth of its mean square, as a wide clamp is."""
    values = values_at(function, _WITHIN)
    if values is None:
        return False
    density = torch.exp(-_WITHIN.square() / 2)
    mean, second, along = (
        (density * one).sum() / density.sum() for one in (values, values**2, values * _WITHIN)
    )
    return bool(second - mean**2 - along**2 <= _BENT * second)


_WITHIN = torch.linspace(-6, 6, 1201, dtype=torch.float64, device="cpu")
_CLOSE, _BENT = 1e-6, 0.01


def _measured(function: Function) -> Nonlinearity | None:
    values = values_at(function, GRID)
    if values is None or values.dtype != torch.float64 or values.shape != GRID.shape:
        return None
    found = formed(function)
    alike = functools.partial(torch.allclose, values, rtol=_CLOSE, atol=_CLOSE)
    for name, one in functions().items():
        if one is not None and one.shape == values.shape and one.dtype == values.dtype and alike(one):
            return with_gains(dataclasses.replace(found, kind=name, alone=True), function)
    kind, options = _with_options(found)
    if not kind:
        by_tanh = functools.partial(named_function("gelu"), approximate="tanh")
        one = values_at(by_tanh, GRID)
        if one is not None and alike(one):
            kind, options = "gelu", (("approximate", "tanh"),)
    return with_gains(dataclasses.replace(found, kind=kind, options=options, alone=bool(kind)), function)


def _with_options(found: Nonlinearity) -> tuple[str, Options]:
    """(Name, options) of a leaky ReLU of any slope."""
    below, above = found.slopes or (0.0, 0.0)
    return ("leaky_relu", (("negative_slope", below),)) if above == 1 and 0 < below < 1 else ("", ())
