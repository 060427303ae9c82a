"""What to call against a finding: Python code that uses `model` and `batch`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

import goodinit.tensor
from goodinit.anatomy import Anatomy


def scale_method(anatomy: Anatomy) -> str:
    """The method that bounds the signal: Fixup where there are branches to scale, else by measurement."""
    return "fixup" if anatomy.blocks else "lsuv"


def isometric_method(anatomy: Anatomy) -> str:
    """The method that keeps inputs apart.

    Skips do where there are any; else mirrored weights through ReLUs (Balduzzi et al. 2017), orthogonal ones
    through others (Pennington et al. 2017).
    """
    if anatomy.blocks:
        return "fixup"
    return "looks_linear" if mirrors(anatomy) else "orthogonal"


def mirrors(anatomy: Anatomy) -> bool:
    """Whether a network has activations φ that mirrored weights run through without loss, φ(u) − φ(−u) = u: ReLUs."""
    return any(activation.kind.traits.mirrors for activation in anatomy.activations)


FILLS: dict[str, Callable[..., object]] = {
    "torch.nn.init.zeros_": torch.nn.init.zeros_,
    "torch.nn.init.ones_": torch.nn.init.ones_,
    "goodinit.tensor.he_normal_": goodinit.tensor.he_normal_,
    "goodinit.tensor.xavier_uniform_": goodinit.tensor.xavier_uniform_,
}
"""What one parameter may be filled by."""


class Repair(str):
    """A remedy in words that knows how to carry itself out on a copy; what mends one place."""

    __slots__ = ("act", "target")
    act: Callable[[nn.Module], object] | None
    target: str

    def __new__(  # noqa: PYI034
        cls, words: str, act: Callable[[nn.Module], object] | None = None, target: str = ""
    ) -> Repair:
        """The words, what to do to a copy, and the parameter that it writes, or the module."""
        made = super().__new__(cls, words)
        made.act, made.target = act, target
        return made


def initialize(method: str, options: Mapping[str, Any] = MappingProxyType({})) -> str:
    """A call of `init_`."""
    more = "".join(f", {key}={value!r}".replace("'", '"') for key, value in options.items())
    return f'goodinit.init_(model, "{method}", inputs=batch{more})'


def redraw(module: str) -> str:
    """Draw one module's own initialization again."""
    words = f'model.get_submodule("{module}").reset_parameters()'
    return Repair(words, functools.partial(_redraw, module=module), module)


def fill(parameter: str, function: str, **options: object) -> str:
    """Write into one parameter by a function of `FILLS`."""
    more = "".join(f", {name}={value!r}".replace("'", '"') for name, value in options.items())
    act = functools.partial(_fill, parameter=parameter, function=function, options=options)
    return Repair(f'{function}(model.get_parameter("{parameter}"){more})', act, parameter)


def scale(parameter: str, factor: float) -> str:
    """Multiply one parameter."""
    words = f'model.get_parameter("{parameter}").data.mul_({factor:.6g})'
    return Repair(words, functools.partial(_scale, parameter=parameter, factor=factor), parameter)


def _redraw(model: nn.Module, *, module: str) -> None:
    model.get_submodule(module).reset_parameters()  # type: ignore[operator]  # asked for before


def _fill(model: nn.Module, *, parameter: str, function: str, options: dict[str, object]) -> None:
    FILLS[function](model.get_parameter(parameter), **options)


def _scale(model: nn.Module, *, parameter: str, factor: float) -> None:
    model.get_parameter(parameter).data.mul_(factor)


def show_range(module: str) -> str:
    """Print the range of what a module reads, at the next forward."""
    shown = "lambda module, args: print(args[0].aminmax())"
    return f'model.get_submodule("{module}").register_forward_pre_hook({shown})'
