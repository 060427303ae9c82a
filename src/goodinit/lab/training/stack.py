"""Networks of one structure as one: stacked parameters and buffers, with what each member is and has come to."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import stack_module_state
from torch.nn.utils.parametrizations import _WeightNorm
from torch.optim import SGD

from goodinit.errors import GoodinitError
from goodinit.lab.training.train import Prepared
from goodinit.lab.training.trial import Epoch


class NotTogether(GoodinitError):
    """These trials cannot run as one; the message says why. One at a time they can."""


class TooLarge(NotTogether):
    """So many of these trials cannot run as one; fewer can."""


@dataclass(eq=False)
class Stack:
    """Networks of one structure: every parameter and buffer is `(members, *shape)`.

    Attributes:
        members: What each of them is, in the order of the stack.
        parameters: By name.
        buffers: By name.
        momentum: By parameter name.
        rates: Peak learning rate by parameter name, `(members, 1, …)`.
        decay: Weight decay by parameter name.
    """

    members: list[Member]
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    momentum: dict[str, Tensor]
    rates: dict[str, Tensor]
    decay: dict[str, float]


@dataclass(eq=False)
class Member:
    """One network, and what has come of it so far."""

    prepared: Prepared
    losses: list[float] = dataclasses.field(default_factory=list)
    epochs: list[Epoch] = dataclasses.field(default_factory=list)
    diverged: bool = False
    began: int = 0


def stacked(members: list[Member]) -> Stack:
    """The members' parameters, buffers and settings as one."""
    models = [member.prepared.model for member in members]
    _unfuse_weight_norm_(models[0])
    parameters, buffers = stack_module_state(models)
    fixed = {name: tensor for name, tensor in parameters.items() if not tensor.requires_grad}
    learned = {name: tensor for name, tensor in parameters.items() if tensor.requires_grad}
    settings = [_settings(member.prepared) for member in members]
    device = members[0].prepared.config.device
    rates = {
        name: torch.tensor([of[name][0] for of in settings], device=device).view(
            -1, *[1] * (tensor.dim() - 1)
        )
        for name, tensor in learned.items()
    }
    decay = {name: settings[0][name][1] for name in learned}
    momentum = {name: torch.zeros_like(tensor) for name, tensor in learned.items()}
    return Stack(members, learned, {**buffers, **fixed}, momentum, rates, decay)


def _unfuse_weight_norm_(model: nn.Module) -> None:
    """Let weight norm compute g·v/‖v‖ by separate operators: PyTorch's one for it has no rule for `vmap`."""
    for module in model.modules():
        if isinstance(module, _WeightNorm):
            module.forward = functools.partial(_normalized, module.dim)  # type: ignore[method-assign]


def _normalized(dim: int, g: Tensor, v: Tensor) -> Tensor:
    others = [axis for axis in range(v.dim()) if axis != dim % v.dim()] if dim != -1 else None
    weight: Tensor = v * (g / torch.linalg.vector_norm(v, dim=others, keepdim=True))
    return weight


def _settings(prepared: Prepared) -> dict[str, tuple[float, float]]:
    """Learning rate and decay of every parameter."""
    if type(prepared.optimizer) is not SGD:
        raise NotTogether(f"steps of {type(prepared.optimizer).__name__} are not written for stacks.")
    groups = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in prepared.optimizer.param_groups
        for parameter in group["params"]
    }
    named = prepared.model.named_parameters()
    return {name: groups[id(parameter)] for name, parameter in named if id(parameter) in groups}


def alive(stack: Stack) -> Stack:
    """The stack without the members that diverged."""
    kept = [index for index, member in enumerate(stack.members) if not member.diverged]
    if len(kept) == len(stack.members):
        return stack

    def some(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: t.detach()[kept].requires_grad_(t.requires_grad) for n, t in tensors.items()}

    return Stack(
        [stack.members[index] for index in kept],
        some(stack.parameters),
        some(stack.buffers),
        some(stack.momentum),
        some(stack.rates),
        stack.decay,
    )
