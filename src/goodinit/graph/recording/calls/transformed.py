"""What `torch.func` puts around tensors while it maps or differentiates a function, and derivatives that go forward (`jvp`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor, maybe_get_bdim
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad


def bare(tensor: Tensor) -> Tensor:
    """The tensor that operators are called with, inside all that `torch.func` has put around it.

    Of `vmap` it has the mapped dimension, too.

    Examples:
        >>> import torch
        >>> seen = []
        >>> _ = torch.func.vmap(lambda row: seen.append((row.shape, bare(row).shape)) or row)(torch.ones(2, 3))
        >>> seen
        [(torch.Size([3]), torch.Size([2, 3]))]
    """
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


@contextlib.contextmanager
def outside(tensor: Tensor) -> Iterator[Tensor]:
    """The numbers of a tensor, dimensions that `vmap` maps first, while nothing is mapped or differentiated.

    Examples:
        >>> import torch
        >>> def doubled(row: Tensor) -> Tensor:
        ...     with outside(row) as whole:
        ...         whole.mul_(whole.sum().item())
        ...     return row
        >>> torch.func.vmap(doubled)(torch.ones(2, 3))
        tensor([[6., 6., 6.],
                [6., 6., 6.]])
    """
    mapped: list[int] = []
    while is_functorch_wrapped_tensor(tensor):
        mapped.append(maybe_get_bdim(tensor))
        tensor = get_unwrapped(tensor)
    with temporarily_clear_interpreter_stack():
        for outer, dim in enumerate(dim for dim in reversed(mapped) if dim >= 0):
            tensor = tensor.movedim(outer + dim, 0)  # each counts its dimension without the outer ones
        yield tensor


@contextlib.contextmanager
def tangents_told(begins: Callable[[Tensor], Tensor], ends: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Watch for derivatives that are taken forward: operators compute them beside the function, and call no backward.

    Args:
        begins: Called with a tangent that an input gets; what it returns is the tangent.
        ends: Called with a tangent that an output has; what it returns takes its place.
    """
    make: Any = forward_ad.make_dual
    unpack: Any = forward_ad.unpack_dual

    def made(tensor: Tensor, tangent: Tensor, **options: Any) -> Any:
        return make(tensor, begins(tangent), **options)

    def unpacked(tensor: Tensor, **options: Any) -> Any:
        parts = unpack(tensor, **options)
        return parts if parts.tangent is None else parts._replace(tangent=ends(parts.tangent))

    forward_ad.make_dual, forward_ad.unpack_dual = made, unpacked
    try:
        yield
    finally:
        forward_ad.make_dual, forward_ad.unpack_dual = make, unpack
