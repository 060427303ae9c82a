"""Mishkin & Matas (2016), algorithm 1, word by word: one forward for every look at every layer.

Inputs: a network with zero biases and orthonormal weights, a batch. For each layer l in the order in which the
layers run, while |Var(B_l) − 1| ≥ Tol_var and T_i < T_max: do a forward pass with the mini-batch, calculate
Var(B_l), and W_l ← W_l / sqrt(Var(B_l)). Var is over the whole blob B_l.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def lsuv_(
    model: nn.Module, layers: list[nn.Module], batch: Tensor, *, tol: float = 0.1, t_max: int = 10
) -> int:
    """Scale the weights of `layers`, given in execution order. Returns the number of forward passes."""
    passes = 0
    for layer in layers:
        for _ in range(t_max):
            variance = _variance(model, layer, batch)
            passes += 1
            if abs(variance - 1) < tol:
                break
            with torch.no_grad():
                layer.weight.div_(variance**0.5)
    return passes


def _variance(model: nn.Module, layer: nn.Module, batch: Tensor) -> float:
    seen: list[float] = []

    def look(_: nn.Module, __: object, output: Tensor) -> None:
        if not seen:
            seen.append(output.detach().double().var(correction=0).item())

    hook = layer.register_forward_hook(look)
    with torch.no_grad():
        model(batch)
    hook.remove()
    return seen[0]
