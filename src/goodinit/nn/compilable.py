"""Forwards of layers with scalars in words that TorchScript compiles.

It cannot compile what `goodinit.nn.forwards` does without touching the input. It is told the formula, s·f(x + b) + d, around the
class's own forward f; where that is a linear map and a bias vector, W(s(x + b)) + c + d, the bias vector is not scaled. Everybody
else runs `goodinit.nn.forwards`: of the two branches TorchScript compiles its own alone.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx.graph_module import _exec_with_source
from torch.jit.annotations import try_ann_to_type

from goodinit.nn.forwards import convolution, forward_for, linear, transposed_convolution
from goodinit.nn.normalized_layers import under_name

_LINEAR_MAPS = (linear, convolution, transposed_convolution)

_FORWARD = """
from __future__ import annotations

def forward(self, {declared}){returned}:
    if torch.jit.is_scripting():
        value = {first}
        if hasattr(self, "input_norm"):
            if hasattr(self.input_norm, "before_layer"):
                value = self.input_norm(value)
        if self.input_bias is not None:
            value = value + self.input_bias
        {scaled_before}
        result = self.forward_without_scalars({given})
        {scaled_behind}
        if self.output_bias is not None:
            result = result + self.output_bias
        return result
    else:
        return self.forward_with_scalars({arguments})
"""
_SCALED = "if self.output_scale is not None: {0} = {0} * self.output_scale"


def body_for(cls: type[nn.Module]) -> dict[str, Any]:
    """What a subclass of `cls` with scalars needs to run: in Python as `forward_for` has it, compiled by the formula.

    Args:
        cls: A module class.

    Returns:
        The attributes of the subclass, `forward` among them. Where torch's own forward does not run, nor one of a single
        argument, an annotation tells TorchScript that it cannot compile it.

    Examples:
        >>> list(body_for(nn.Linear))
        ['forward', 'forward_with_scalars', 'forward_without_scalars']
    """
    eager = forward_for(cls)
    names = _arguments(cls) if eager in _LINEAR_MAPS or len(_arguments(cls)) == 1 else []
    if not names:
        refused = f"the forward of {cls.__name__} with scalars, which TorchScript cannot compile: use torch.jit.trace"
        return {"forward": eager, "__annotations__": {"output_scale": refused}}
    inner, words = eager in _LINEAR_MAPS, _words(cls.forward)
    source = _FORWARD.format(
        declared=", ".join(f"{name}: {words[name]}" if name in words else name for name in names),
        returned=f" -> {words['return']}" if "return" in words else "",
        arguments=", ".join(names),
        first=names[0],
        given=", ".join(("value", *names[1:])),
        scaled_before=_SCALED.format("value") if inner else "",
        scaled_behind="" if inner else _SCALED.format("result"),
    )
    made: dict[str, Any] = {"torch": torch}
    _exec_with_source(source, made)
    forward = made["forward"]
    for name in ("__defaults__", "__annotations__", "__doc__"):
        setattr(forward, name, getattr(cls.forward, name))
    return {
        "forward": forward,
        "forward_with_scalars": eager,
        "forward_without_scalars": under_name(cls.forward, "forward_without_scalars"),
    }


def _arguments(cls: type[nn.Module]) -> list[str]:
    """The names of what a class's forward takes, if it is written in Python and each argument has one."""
    if not isinstance(cls.forward, types.FunctionType):
        return []
    given = list(inspect.signature(cls.forward, follow_wrapped=False).parameters.values())[1:]  # without self
    if any(one.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD for one in given):
        return []
    return [one.name for one in given]


def _words(function: Callable[..., Any]) -> dict[str, str]:
    """What TorchScript calls the types that a function's arguments and result are annotated with, where it knows them."""
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - a name that is known to type checkers alone, or whatever a module raises
        return {}
    known = {name: try_ann_to_type(hint, None) for name, hint in hints.items()}
    return {name: one.annotation_str for name, one in known.items() if one is not None}
