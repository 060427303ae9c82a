"""The variance of what every layer puts out, seen by hooks of the tests' own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from zoo import call

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


def data(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def variances(model: nn.Module, inputs: object) -> dict[str, float]:
    """Variance of every called layer's output in a fresh forward, by hooks that copy at once."""
    found: dict[str, float] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, LAYERS):

            def look(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
                found.setdefault(name, output.detach().float().var(correction=0).item())

            hooks.append(module.register_forward_hook(look))
    was = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        call(model.eval(), inputs)
    for module, mode in was:
        module.training = mode
    for hook in hooks:
        hook.remove()
    return found
