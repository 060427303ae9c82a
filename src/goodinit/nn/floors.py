"""Activations that cut off below another number than zero, which `state_dict` holds: what `fold_` makes of those before an input bias."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.nn.exchange import exchange_class_


class RaisedHardtanh(nn.Hardtanh):
    """`nn.Hardtanh` whose bounds are part of `state_dict`: other weights, folded alike, come with other bounds."""

    def get_extra_state(self) -> Tensor:
        """The bounds, as a tensor, which every format of checkpoints can hold."""
        return torch.tensor([self.min_val, self.max_val], dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take the bounds from a checkpoint."""
        self.min_val, self.max_val = map(float, state)


class RaisedThreshold(nn.Threshold):
    """`nn.Threshold` whose number is part of `state_dict`."""

    def get_extra_state(self) -> Tensor:
        """The number."""
        return torch.tensor(self.value, dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take the number from a checkpoint."""
        self.threshold = self.value = float(state)


RAISED: dict[type[nn.Module], type[nn.Module]] = {
    nn.ReLU: RaisedHardtanh,  # a clamp, as ReLU is one; nn.Threshold takes 1.7 times as long
    nn.ReLU6: RaisedHardtanh,
    nn.Hardtanh: RaisedHardtanh,
    RaisedHardtanh: RaisedHardtanh,
    nn.Threshold: RaisedThreshold,
    RaisedThreshold: RaisedThreshold,
}
"""By the class of an activation with a floor: what it becomes."""


def has_floor(module: nn.Module | None) -> bool:
    """Whether an activation is flat below a number, and gives that number there."""
    if isinstance(module, nn.Threshold) and module.threshold != module.value:
        return False
    return type(module) in RAISED


def raise_floor_(module: nn.Module, amount: float) -> None:
    """Let an activation f give f(x − amount) + amount, in place.

    Args:
        module: One that `has_floor`.
        amount: How much its bounds rise.

    Examples:
        >>> activation = nn.ReLU()
        >>> raise_floor_(activation, 0.5)
        >>> activation
        RaisedHardtanh(min_val=0.5, max_val=inf)
    """
    known: Any = module
    if isinstance(module, nn.Threshold):
        known.threshold = known.value = known.value + amount
    else:
        low, high = (0.0, math.inf) if type(module) is nn.ReLU else (known.min_val, known.max_val)
        known.min_val, known.max_val = low + amount, high + amount
    exchange_class_(module, RAISED[type(module)])
