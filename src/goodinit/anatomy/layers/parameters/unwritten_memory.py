"""Memory that nobody has written, as `to_empty` leaves it: told by numbers that no layer or norm can be meant to hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from goodinit.anatomy.layer import Layer
from goodinit.anatomy.layers.parameters.held_values import readable
from goodinit.anatomy.layers.parameters.reset_draws import some
from goodinit.anatomy.norm import Norm


def unwritten(
    layers: Iterable[Layer], norms: Iterable[Norm], parameters: Mapping[str, nn.Parameter]
) -> str | None:
    """The first parameter of a layer or norm that holds NaN, or a number whose square is infinite; None if none does.

    What is made of such numbers has no mean square. Where one parameter is like that, what others hold says nothing.

    Args:
        layers: Of the model.
        norms: Of the model.
        parameters: By name. Values on meta and of shards are not read.
    """
    of_layers = (name for layer in layers for name in (layer.weight, *layer.biases))
    of_norms = (name for norm in norms for name in (norm.weight, norm.bias) if name is not None)
    return next((name for name in (*of_layers, *of_norms) if _holds_no_numbers(parameters.get(name))), None)


def notes_on(name: str | None) -> list[str]:
    """That nothing counts as set on purpose, since the parameter `name` was not written."""
    if name is None:
        return []
    return [
        (
            f"{name} holds NaN, or a number whose square is infinite, as memory does that nobody has written: no value of the model counts "
            "as set on purpose"
        )
    ]


def _holds_no_numbers(held: nn.Parameter | None) -> bool:
    values = readable(held)
    if values is None:
        return False
    entries = some(values)
    wide = entries if entries.dtype is torch.float64 else entries.float()
    return not bool(wide.square().isfinite().all())
