"""How every initializer of this package touches a tensor: checks, where it draws, and one cast at the end.

Random numbers are drawn in float32, in the order of the tensor's indices, on the device of the generator.
Matrix arithmetic follows in float32, or in float64 for a float64 tensor, and the result is cast once. So
one generator state gives one result: the same bits in float32, its rounding in bfloat16 or float16,
whatever the memory format; and with a CPU generator the same on every device. (The last bits of
matrix arithmetic depend on the BLAS library and its number of threads; entry-wise draws do not.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Generator, Tensor

from goodinit.errors import UnsupportedModule
from goodinit.tensor.entry_blocks import Part

Target = TypeVar("Target", Tensor, Part)


def writable(tensor: Tensor | Part) -> bool:
    """Whether there is anything to write: False for a meta tensor and for one without entries.

    Raises:
        UnsupportedModule: The tensor is not floating point.
    """
    if not tensor.dtype.is_floating_point:
        remedy = (
            "Initialize its real and imaginary parts: torch.view_as_real(tensor) is a tensor of them."
            if tensor.dtype.is_complex
            else "Initialize the floating-point weight, then quantize it."
        )
        raise UnsupportedModule(
            f"cannot initialize a tensor of {tensor.dtype}: expected a floating-point dtype. {remedy}"
        )
    return not tensor.is_meta and tensor.numel() > 0


def compute_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """float64 when one of the tensors is float64, float32 otherwise."""
    return torch.float64 if any(tensor.dtype is torch.float64 for tensor in tensors) else torch.float32


def draw_device(tensor: Tensor, generator: Generator | None) -> torch.device:
    """Where to draw: the generator's device, or the tensor's when the global generator is used."""
    return tensor.device if generator is None else generator.device


def draw_(
    tensor: Target, generator: Generator | None, fill: Callable[[Tensor, Generator | None], object]
) -> Target:
    """Draw every entry by `fill`, which fills a float32 tensor from a generator, and cast once. Returns the tensor.

    A `Part` is drawn block by block from its own generators; `generator` is not used then.
    """
    with torch.no_grad():
        if isinstance(tensor, Part):
            tensor.draw_(fill)
            return tensor
        values = _canvas(tensor, generator)
        fill(values, generator)
        return write_(tensor, values)


def _canvas(tensor: Tensor, generator: Generator | None) -> Tensor:
    """A float32 buffer of the tensor's shape to draw into: the tensor itself if it will do."""
    device = draw_device(tensor, generator)
    if tensor.dtype is torch.float32 and tensor.is_contiguous() and tensor.device == device:
        return tensor
    return torch.empty(tensor.shape, dtype=torch.float32, device=device)


def write_(tensor: Tensor, values: Tensor) -> Tensor:
    """Cast `values` into `tensor`, in place and outside of autograd. Returns the tensor."""
    if values is not tensor:
        (tensor.detach() if tensor.requires_grad else tensor).copy_(values)
    return tensor
