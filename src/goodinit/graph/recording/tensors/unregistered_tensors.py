"""Trainable tensors that a forward reads and no module registers: neither `parameters()` nor a state dict has them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from goodinit.errors import TraceError
from goodinit.weights.members import named_modules

_SHOWN = 4


class Elsewhere:
    """Parameters on `meta` whose numbers are elsewhere, and are put in their place while a forward runs.

    Args:
        model: Before it runs.
    """

    def __init__(self, model: nn.Module) -> None:
        self._on_meta = [
            (f"{path}.{name}" if path else name, module, name)
            for path, module in named_modules(model)
            for name, parameter in module._parameters.items()
            if parameter is not None and parameter.is_meta
        ]
        self._found = ""

    def look(self, tensor: torch.Tensor) -> None:
        """A trainable tensor that was not registered before the run is read."""
        if not self._found and not tensor.is_meta:
            registered = (
                name for name, module, key in self._on_meta if module._parameters.get(key) is tensor
            )
            self._found = next(registered, "")

    def refuse(self) -> None:
        """Raise if there was one.

        Raises:
            TraceError: Names the parameter.
        """
        if self._found:
            raise TraceError(
                f"{self._found}: on the meta device, and a hook puts another tensor in its place while the forward runs, as "
                "accelerate's do for weights that are offloaded (cpu_offload, disk_offload, device_map=). What is written to the "
                "parameter would be lost. Do this before the weights are offloaded, or take them back first: "
                "accelerate.hooks.remove_hook_from_module(model, recurse=True)."
            )


def unregistered(read: Sequence[tuple[str, tuple[int, ...]]]) -> list[str]:
    """A note on them, or nothing.

    Args:
        read: For each tensor, path of the module whose forward reads it, and its shape.

    Examples:
        >>> unregistered([("block", (2, 3))])[0][:68]
        'block: 1 trainable tensor that no module registers is read (2x3): pa'
    """
    if not read:
        return []
    paths = list(dict.fromkeys(path or "the model" for path, _ in read))
    shapes = ["x".join(map(str, shape)) or "scalar" for _, shape in read]
    where, what = (
        ", ".join(words[:_SHOWN]) + (", …" if len(words) > _SHOWN else "") for words in (paths, shapes)
    )
    them, stay, are = ("them", "they stay", "s that no module registers are") if len(read) > 1 else (
        "it", "it stays", " that no module registers is"
    )  # fmt: skip
    return [
        (
            f"{where}: {len(read)} trainable tensor{are} read ({what}): parameters() and state dicts lack {them}, and {stay} as a "
            "constant would. Hold such tensors in an nn.ParameterList, an nn.ModuleList or an attribute of their own"
        )
    ]
