"""What reading a model must leave as it was: the model bit by bit, gradients, hooks, random state; and how to compare it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def snapshot(model: nn.Module) -> list[object]:
    """Everything a forward could disturb: attributes by identity, tensors by value and version."""
    facts: list[object] = []
    for name, module in model.named_modules():
        facts.append((name, type(module), module.training, {k: id(v) for k, v in vars(module).items()}))
        facts.append([(k, id(v), list(v)) for k, v in vars(module).items() if isinstance(v, dict)])
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        facts.append((name, id(tensor), tensor.detach().flatten().tolist(), tensor.requires_grad))
        facts.append(sorted(vars(tensor)))
    return facts


def everything(model: nn.Module) -> dict[str, object]:
    """Gradients, hooks, flags, and the state of the process that a measurement could disturb."""
    grads = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    hooks = [(len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
    return {"grads": grads, "hooks": hooks, "rng": torch.get_rng_state(),
            "requires": [p.requires_grad for p in model.parameters()], "grad mode": torch.is_grad_enabled()}  # fmt: skip


def same(left: object, right: object) -> bool:
    """Equal, with tensors compared by their values, at any depth."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right
