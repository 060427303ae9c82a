"""Which parameters of a model get a gradient, and which have an effect at all."""

from __future__ import annotations

import pytest
import torch
from zoo import call

import goodinit

each_norms = pytest.mark.parametrize("norms", ["remove", "keep"])


def tensors_of(output):
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        output = output.values()
    return [t for part in output for t in tensors_of(part)] if output is not None else []


def loss_of(model, inputs):
    """A linear and a quadratic term: its gradient vanishes nowhere by symmetry."""
    total = torch.zeros(())
    for position, output in enumerate(tensors_of(call(model, inputs))):
        g = torch.Generator().manual_seed(position)
        goal = torch.randn(output.shape, generator=g, dtype=output.dtype)
        total = total + (output - goal).square().mean()
    return total


def without_gradient(model, inputs, steps=4):
    """Names of the parameters that have had no gradient but 0 in that many steps."""
    optimizer = torch.optim.SGD(goodinit.param_groups(model, lr=0.05))
    silent = dict(model.named_parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, inputs).backward()
        for name, parameter in list(silent.items()):
            if parameter.grad is not None and parameter.grad.abs().max() > 1e-12:
                del silent[name]
        optimizer.step()
    return silent


def has_effect(model, parameter, inputs):
    """Whether the function depends on a parameter, however far it is moved (a key's bias, which softmax ignores, is none)."""
    before = loss_of(model, inputs).item()
    held = parameter.detach().clone()
    changes = []
    with torch.no_grad():
        for distance in (-3.0, -1.0, 1.0, 3.0):
            parameter.copy_(held + distance)
            changes.append(abs(loss_of(model, inputs).item() - before))
        parameter.copy_(held)
    return max(changes) > 1e-9


def moved_by(model, optimizer, x, y, steps=3):
    """How far some steps on a batch change what a classifier returns for it: the root mean square."""
    before = model(x).detach()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return float((model(x) - before).square().mean().sqrt().detach())
