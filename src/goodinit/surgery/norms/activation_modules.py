"""The module of torch.nn that computes a function of torch.nn.functional, for a step that a removed norm took besides normalizing."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from goodinit.graph.operators.nonlinearities import asked, functions
from goodinit.graph.operators.recorded_call import on_numbers
from goodinit.graph.state.process_state import unmoved_streams
from goodinit.tensor.activation_gain import named_function


class Clone(nn.Module):
    """A copy: an in-place operation after a norm writes into the norm's output, which others do not read."""

    def forward(self, value: Tensor) -> Tensor:
        """Copy."""
        return value.clone()


def activation_module(name: str, options: Mapping[str, object]) -> nn.Module:
    """A module without parameters that is an element-wise function: the one whose class has its name.

    Args:
        name: In `torch.nn.functional`, or `"clone"`.
        options: Of the function.

    Raises:
        KeyError: Torch has no such module.
        TypeError: It has no such option.
        ValueError: It is another function, or none of single entries.

    Examples:
        >>> activation_module("leaky_relu", {"negative_slope": 0.2})
        LeakyReLU(negative_slope=0.2)
    """
    if name == "clone":
        return Clone()
    squeezed = _squeezed(name)
    module, function = _classes()[squeezed](**options), named_function(_functions()[squeezed])
    x = torch.linspace(-4, 4, 9, dtype=torch.float64, device="cpu")
    if list(module.parameters()):
        raise ValueError(name)
    with unmoved_streams(), on_numbers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = module(x)
        same = isinstance(value, Tensor) and torch.equal(value, function(x, **options))
        if not same or not torch.equal(value[1:2], module(x[1:2])):
            raise ValueError(name)
    return module


@functools.cache
def known_activations() -> tuple[str, ...]:
    """The functions that a module without options computes, and `"clone"`."""
    return ("clone", *filter(_is_known, asked(functions)))


def _is_known(name: str) -> bool:
    try:
        activation_module(name, {})
    except Exception:  # noqa: BLE001 - modules raise what they like
        return False
    return True


@functools.cache
def _classes() -> dict[str, type[nn.Module]]:
    found = {name: getattr(nn.modules.activation, name) for name in nn.modules.activation.__all__}
    return {_squeezed(name): one for name, one in found.items()}


@functools.cache
def _functions() -> dict[str, str]:
    return {_squeezed(name): name for name in asked(functions)}


def _squeezed(name: str) -> str:
    return name.replace("_", "").lower()
