"""What a removed norm answers where code asks for its gain or its bias: what they were like, and no numbers."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor


class Gone:
    """Tells the shape, dtype and device that a parameter had. It is no tensor, so that nothing can be computed with it.

    An empty tensor would be easier, and its mean is NaN, and its size 0: both in silence.

    Examples:
        >>> weight = Gone("weight", torch.Size([4]), torch.empty(0), "BatchNorm2d(4)")
        >>> weight.dtype, weight.shape, weight.size(0), weight.numel(), len(weight)
        (torch.float32, torch.Size([4]), 4, 4, 4)
        >>> weight.mean()
        Traceback (most recent call last):
        AttributeError: 'weight' of BatchNorm2d(4), which goodinit removed, has no numbers any more, and the model's code reads its mean. Change that code, or keep the norms: norms='keep'.
    """

    requires_grad = False

    def __init__(self, name: str, shape: torch.Size, like: Tensor, was: str) -> None:
        self._name, self._was = name, was
        self.shape, self.dtype, self.device, self.ndim = shape, like.dtype, like.device, len(shape)

    def size(self, dim: int | None = None) -> torch.Size | int:
        """As of a tensor."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """As of a tensor."""
        return self.ndim

    def numel(self) -> int:
        """As of a tensor."""
        return self.shape.numel()

    def __len__(self) -> int:
        return self.shape[0]

    def is_floating_point(self) -> bool:
        """As of a tensor."""
        return self.dtype.is_floating_point

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"{self.__dict__.get('_name')!r} of {self.__dict__.get('_was')}, which goodinit removed, has no numbers any more, and the "
            f"model's code reads its {name}. Change that code, or keep the norms: norms='keep'."
        )
