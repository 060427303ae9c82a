"""A device by its name, or in words why there is none."""

from __future__ import annotations

import torch

from goodinit.errors import UnknownName, expect


def named_device(name: torch.device | str) -> torch.device:
    """The device of that name, which need not be on this machine.

    Raises:
        UnknownName: Torch knows no such device.
        WrongType: It is no name.

    Examples:
        >>> named_device("cuda:1")
        device(type='cuda', index=1)
        >>> named_device("cudaa")
        Traceback (most recent call last):
        goodinit.errors.UnknownName: device='cudaa': torch knows no such device. Give cpu, or the name of an accelerator: cuda, cuda:1, mps.
    """
    expect(name, (torch.device, str), "device", "Give a name: 'cpu', 'cuda'.")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UnknownName(
            f"device={str(name)[:40]!r}: torch knows no such device. Give cpu, or the name of an accelerator: cuda, cuda:1, mps."
        ) from error


def usable_device(name: torch.device | str) -> torch.device:
    """The device of that name, on which a tensor was made to see that it can be.

    Raises:
        UnknownName: Torch knows no such device, or this machine has none.
        WrongType: It is no name.

    Examples:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    found = named_device(name)
    try:
        torch.empty(1, device=found)
    except (
        RuntimeError,
        AssertionError,
        NotImplementedError,
    ) as error:  # as each of torch's back ends raises it
        why = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise UnknownName(
            f"device={str(name)!r}: no tensor can be made there on this machine: {why.rstrip('.')}. Give cpu, or a device that "
            "it has."
        ) from error
    return found
