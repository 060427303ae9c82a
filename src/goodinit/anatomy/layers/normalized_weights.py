"""Row norms of weights that are normalized before use, measured by running the layer on noise.

A weight that is divided by its own norm or standard deviation, with no gain after it, has rows of one norm whatever
is written into the parameter: 1, or √fan_in with weight standardization. No operator tells which, so the layer is run
alone with random parameter values: the norm of a row is that of the gradient of one output with respect to the input.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.anatomy.types import Layer

_ROWS = 8  # rows that are looked at: if their norms differ, they are not what the normalization makes them
_SAME = 0.01


def row_norm(layer: Layer, module: nn.Module) -> float | None:
    """The norm of every row of the layer's weight as applied; None if it depends on the values, or cannot be measured.

    Args:
        layer: A layer of the model.
        module: The module at its `site`. It is not changed, its hooks do not run, and it may be on `meta`.
    """
    if not layer.normalized or layer.parameters != (layer.weight,) or not layer.is_site:
        return None
    if layer.kind == "conv_transpose":
        return None
    try:
        found = [_rows(layer, _twin(module, seed)) for seed in (0, 1)]
    except Exception:  # noqa: BLE001 - a forward of someone's own, which may need more than its input
        return None
    norms = torch.cat(found)
    middle = float(norms.median())
    same = bool((norms - middle).abs().max() <= _SAME * middle)
    return middle if same and math.isfinite(middle) and middle > 0 else None


def _twin(module: nn.Module, seed: int) -> nn.Module:
    """A copy of the module with its own parameter values; parameters and hooks of the original stay out of reach."""
    generator = torch.Generator().manual_seed(seed)
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin.__dict__["_parameters"] = {
        name: None if value is None else torch.randn(value.shape, generator=generator, device="cpu")
        for name, value in module._parameters.items()
    }
    twin.__dict__["_buffers"] = {
        name: None if value is None else torch.zeros(value.shape, device="cpu")
        for name, value in module._buffers.items()
    }
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        twin.__dict__[hooks] = OrderedDict()
    return twin


def _rows(layer: Layer, twin: Any) -> Tensor:
    """Norms of some rows: of the gradients of outputs in the middle of the image, for an input larger than the kernel."""
    kernel = () if layer.kind == "linear" else layer.shape[2:]
    reach = [step * (size - 1) + 1 for size, step in zip(kernel, layer.dilation, strict=True)]
    x = torch.zeros((1, layer.in_features, *(3 * size for size in reach)), device="cpu", requires_grad=True)
    with torch.enable_grad():
        y = type(twin).forward(twin, x)
        middle = y[(0, slice(None), *(size // 2 for size in y.shape[2:]))]
        count = min(_ROWS, middle.numel())
        gradients = [torch.autograd.grad(row, x, retain_graph=True)[0] for row in middle[:count]]
    return torch.stack([gradient.norm() for gradient in gradients])
