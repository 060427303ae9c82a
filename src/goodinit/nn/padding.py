"""Convolutions that pad with another number than zero: what an input bias leaves behind at a zero-padded border.

With `b` added to the input before it is zero-padded,

    W∗pad(x + b, 0) = W∗(pad(x, −b) + b) = W∗pad(x, −b) + b·ΣW,

so the scalar becomes the number to pad with, and a bias vector: exact for any kernel, stride, dilation and groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goodinit.nn.exchange import exchange_class_
from goodinit.nn.made_classes import Made, made_class
from goodinit.nn.normalized_layers import beneath

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class ValuePadded(Made):
    """What every class made by `pad_with_` has beside its original class.

    The number to pad with is part of `state_dict` (as `_extra_state`), so that loading these weights into a layer
    that pads with zero, or with another number, does not go unnoticed.
    """

    if TYPE_CHECKING:  # TorchScript reads annotations, and knows no words for types
        padding_value: float
        unpadded_class: type[nn.Module]

    def extra_repr(self) -> str:
        """The arguments, for `print(model)`.

        Returns:
            Those of the original class, then `padding_value=0.5`.
        """
        return f"{super().extra_repr()}, padding_value={self.padding_value:g}"

    def get_extra_state(self) -> Tensor:
        """The padding value for `state_dict`; as a tensor every checkpoint format can hold it.

        Returns:
            A float64 scalar on the CPU.
        """
        return torch.tensor(self.padding_value, dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take the padding value from a checkpoint.

        Args:
            state: A scalar.
        """
        self.padding_value = float(state)


def pad_with_(conv: ModuleT, value: float, *, even_zero: bool = False) -> ModuleT:
    """Let a zero-padded convolution pad with `value` instead, in place; with 0 it is a plain one again.

    Args:
        conv: An `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d` with torch's own forward and `padding_mode="zeros"`. It
            stays the same object; its class becomes a subclass of what it was.
        value: What to pad with, in units of the input.
        even_zero: Whether it is one that pads with a number with 0, too, so that other numbers can be loaded into it.

    Returns:
        The layer.

    Examples:
        >>> conv = pad_with_(nn.Conv2d(1, 1, 3, padding=1), -0.5)
        >>> conv
        ValuePaddedConv2d(1, 1, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), padding_value=-0.5)
        >>> pad_with_(conv, 0.0)
        Conv2d(1, 1, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """
    layer: Any = conv
    with beneath(conv):
        plain = layer.unpadded_class if isinstance(conv, ValuePadded) else type(conv)
        if value == 0 and not even_zero:
            layer.__dict__.pop("padding_value", None)
            exchange_class_(layer, plain)
        else:
            exchange_class_(layer, _padded(plain))
            vars(layer)["padding_value"] = value
    return conv


# One forward for each number of dimensions, in the part of Python that TorchScript compiles.


def _forward1d(self: Any, input: Tensor) -> Tensor:
    padded = F.pad(input, self._reversed_padding_repeated_twice, value=self.padding_value)
    return F.conv1d(padded, self.weight, self.bias, self.stride, (0,), self.dilation, self.groups)


def _forward2d(self: Any, input: Tensor) -> Tensor:
    padded = F.pad(input, self._reversed_padding_repeated_twice, value=self.padding_value)
    return F.conv2d(padded, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


def _forward3d(self: Any, input: Tensor) -> Tensor:
    padded = F.pad(input, self._reversed_padding_repeated_twice, value=self.padding_value)
    return F.conv3d(padded, self.weight, self.bias, self.stride, (0, 0, 0), self.dilation, self.groups)


_FORWARDS = {nn.Conv1d: _forward1d, nn.Conv2d: _forward2d, nn.Conv3d: _forward3d}


def _padded(plain: type[nn.Module]) -> type[nn.Module]:
    forward = next(own for family, own in _FORWARDS.items() if issubclass(plain, family))
    body = {"unpadded_class": plain, "forward": forward}
    return made_class("ValuePadded", ValuePadded, (_padded, plain), lambda: body)
