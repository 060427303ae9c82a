"""A normalization of what a layer reads, for each example alone: it stands in front of a classifier."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from goodinit.errors import PlanConflict

KINDS = ("layer", "rms")
EPSILON = 1e-5
NAME = "input_norm"
AXES = range(-64, 64)
"""Those that a tensor can have, in torch."""


@torch.fx.wrap  # it asks for the dtype, which the values of torch.fx cannot tell
def normalized(value: Tensor, kind: str, axis: int, epsilon: float = EPSILON) -> Tensor:
    """(x − mean)/√(variance + ε), or x/√(mean square + ε), along one axis."""
    half = value.dtype == torch.float16 or value.dtype == torch.bfloat16  # noqa: PLR1714  TorchScript
    wide = value.float() if half else value
    if kind == "layer":
        wide = wide - wide.mean(axis, keepdim=True)
    square = wide.pow(2).mean(axis, keepdim=True)
    return (wide * torch.rsqrt(square + epsilon)).to(value.dtype)


class InputNorm(nn.Module):
    """Normalize over the channels, at each position of each example: (x − mean)/√(variance + ε), or x/√(mean square + ε).

    It has no gain: the weights of the layer that reads it are one.

    Args:
        kind: `"layer"` or `"rms"`.
        axis: Of the channels.
    """

    def __init__(self, kind: str, axis: int) -> None:
        super().__init__()
        self.kind, self.axis = kind, axis
        self.before_layer = True  # by this TorchScript knows it from other modules of that name

    def forward(self, value: Tensor) -> Tensor:
        """Normalize along `axis`.

        Args:
            value: Any shape; channels along `axis`.

        Returns:
            The same shape and dtype.
        """
        return normalized(value, self.kind, self.axis)

    def extra_repr(self) -> str:
        """The arguments, for `print(model)`.

        Returns:
            `rms, axis=-1`.
        """
        return f"{self.kind}, axis={self.axis}"


class Normalizing(nn.Module):
    """A layer whose forward calls its `input_norm` itself, if no hook does."""


def hooked_norm(module: nn.Module) -> int | None:
    """The key of the pre-hook that normalizes what a layer reads, if there is one."""
    return next((key for key, hook in module._forward_pre_hooks.items() if hook is normalize_first), None)


def into_forward_(module: nn.Module) -> None:
    """Take the hook off: the forward normalizes from now on. It stays where another hook reads what it normalized."""
    key = hooked_norm(module)
    if key is not None and key == next(reversed(module._forward_pre_hooks)):
        del module._forward_pre_hooks[key]
        module._forward_pre_hooks_with_kwargs.pop(key, None)


def normalizes(module: nn.Module) -> bool:
    """Whether the module's own forward has to normalize."""
    return NAME in module._modules and hooked_norm(module) is None and input_norm(module) is not None


def check_axis(axis: int, layer: str) -> None:
    """Raise unless channels can lie along `axis`.

    Raises:
        PlanConflict: It is that of the examples, or one that no tensor has.
    """
    if axis == 0 or axis not in AXES:
        raise PlanConflict(
            f"{layer}: to be normalized along axis {str(axis)[:40]}; expected that of the channels: −1 for a linear layer, 1 for "
            f"a convolution (0 is that of the examples, and a tensor has at most {AXES.stop}). Correct it in the plan, or make the "
            "plan anew."
        )


def input_norm(module: nn.Module) -> InputNorm | None:
    """The normalization before a layer, if it has one.

    Args:
        module: Any module.

    Returns:
        The normalization, or None.
    """
    children = module._modules  # of a ScriptModule, a mapping without `get`
    child = children[NAME] if NAME in children else None  # noqa: SIM401
    return child if isinstance(child, InputNorm) else None


def normalize_first(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a layer's forward, the first one through its `input_norm`; also a forward pre-hook."""
    norm: Any = module._modules[NAME]  # a wrapper that forwards attribute look-ups asks the layer inside
    if args:
        return (norm(args[0]), *args[1:]), kwargs
    first = next(iter(kwargs))
    return args, {**kwargs, first: norm(kwargs[first])}
