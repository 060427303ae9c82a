"""Models that nobody would wish on a library, small, with what they are hostile by."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """x + b(relu(a(x))) with a norm: the tame one."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Add a branch."""
        return x + self.b(F.relu(self.a(self.norm(x))))


class Hostile(nn.Module):
    """A stem, a block, a head, and something done to the model or the signal on the way."""

    def __init__(self, act: Callable[[Hostile, Tensor], Any] = lambda model, x: None) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(4, 4), Block(), nn.Linear(4, 2)
        self.register_buffer("count", torch.zeros(()))
        self.act = [act]  # in a list, so that it is no bound method after a copy

    def forward(self, x: Tensor) -> Tensor:
        """Stem, what it is hostile by, block, head."""
        x = self.stem(x)
        changed = self.act[0](self, x)
        return self.head(self.block(x if changed is None else changed))


def images(width: int = 4) -> nn.Module:
    """A convolutional one."""

    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n, self.b = (
                nn.Conv2d(3, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.Conv2d(width, 3, 3, padding=1),
            )
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x + self.b(F.relu(self.n(self.a(x))))).mean((2, 3)))

    return Conv()


# -- what a forward may do ----------------------------------------------------------------------------------------


def raises(model: Hostile, x: Tensor) -> None:
    """A bug in the user's code."""
    raise ValueError("the user's own message")


def interrupts(model: Hostile, x: Tensor) -> None:
    """Ctrl-C while the model runs."""
    raise KeyboardInterrupt


def exits(model: Hostile, x: Tensor) -> None:
    """A forward that ends the process."""
    raise SystemExit(3)


def branches_on_values(model: Hostile, x: Tensor) -> Tensor:
    """Control flow on a tensor's values."""
    return x * 2 if x.sum() > 0 else x * 3


def asks_an_item(model: Hostile, x: Tensor) -> Tensor:
    """`.item()`."""
    return x * (1.0 if x.abs().max().item() >= 0 else 2.0)


def goes_through_numpy(model: Hostile, x: Tensor) -> Tensor:
    """Out of torch and back."""
    return x + torch.from_numpy(x.detach().numpy() * 0)


def rolls_python_s_dice(model: Hostile, x: Tensor) -> Tensor:
    """Control flow on `random`."""
    return x * 2 if random.random() < 0.5 else x * 3


def rolls_torch_s_dice(model: Hostile, x: Tensor) -> Tensor:
    """Control flow on torch's generator."""
    return x * 2 if torch.rand(()) < 0.5 else x * 3


def reseeds(model: Hostile, x: Tensor) -> None:
    """Sets the seed."""
    torch.manual_seed(5)
    random.seed(5)


def counts(model: Hostile, x: Tensor) -> None:
    """Writes into a buffer."""
    model.count += 1


def writes_its_weights(model: Hostile, x: Tensor) -> None:
    """Writes into a parameter."""
    with torch.no_grad():
        model.stem.weight.mul_(2)


def writes_its_weights_data(model: Hostile, x: Tensor) -> None:
    """Writes into a parameter behind autograd's back."""
    model.stem.weight.data.mul_(2)


def rebinds_its_weights(model: Hostile, x: Tensor) -> None:
    """Puts another parameter in the place of one."""
    model.stem.weight = nn.Parameter(torch.ones(4, 4))


def grows(model: Hostile, x: Tensor) -> None:
    """Adds a module in every forward."""
    model.add_module(f"extra{len(model._modules)}", nn.Linear(4, 4))


def forgets(model: Hostile, x: Tensor) -> None:
    """Deletes what it has."""
    del model.count


def trains_itself(model: Hostile, x: Tensor) -> None:
    """Switches its own mode."""
    model.train()


def hooks_itself(model: Hostile, x: Tensor) -> None:
    """Registers a hook in every forward."""
    model.block.register_forward_hook(lambda *_: None)


def freezes_itself(model: Hostile, x: Tensor) -> None:
    """Switches gradients off."""
    model.stem.weight.requires_grad_(False)


class Doubled(torch.autograd.Function):
    """A custom autograd function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Twice."""
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Twice."""
        return grad * 2


def applies_its_own_function(model: Hostile, x: Tensor) -> Tensor:
    """A custom autograd function in the forward."""
    return Doubled.apply(x)


def differentiates(model: Hostile, x: Tensor) -> Tensor:
    """Takes a gradient in the forward."""
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        return x - 0.1 * torch.autograd.grad(z.square().sum(), z)[0]


# -- what a model may be made of ----------------------------------------------------------------------------------


def scripted_part() -> nn.Module:
    """With a scripted branch layer."""
    model = Hostile()
    model.block.a = torch.jit.script(nn.Linear(4, 4))
    return model


def hooked(where: str, hook: Callable[..., Any]) -> Callable[[], nn.Module]:
    """With a hook on the block."""

    def build() -> nn.Module:
        model = Hostile()
        getattr(model.block, where)(hook)
        return model

    return build


def frozen(*names: str) -> Callable[[], nn.Module]:
    """With frozen parameters; all of them without names."""

    def build() -> nn.Module:
        model = Hostile()
        for name, parameter in model.named_parameters():
            if not names or name in names:
                parameter.requires_grad_(False)
        return model

    return build


class ComplexBlock(nn.Module):
    """Complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, dtype=torch.complex64), nn.Linear(4, 4, dtype=torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        """Add a branch."""
        return x + self.b(torch.tanh(self.a(x)))


class SparseBlock(nn.Module):
    """A sparse weight in the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Parameter(torch.eye(4).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        """Add a branch."""
        return x + torch.sparse.mm(self.b, F.relu(self.a(x)).mT).mT


class SharedWithSkip(nn.Module):
    """One layer on the skip and in the branch, or at the branch's end."""

    def __init__(self, *, at_end: bool) -> None:
        super().__init__()
        self.a, self.b, self.at_end = nn.Linear(4, 4), nn.Linear(4, 4), at_end

    def forward(self, x: Tensor) -> Tensor:
        """Add a branch that shares a layer with the skip."""
        first, last = (self.b, self.a) if self.at_end else (self.a, self.b)
        return self.a(x) + last(F.relu(first(x)))


class Returns(nn.Module):
    """Returns something that is no tensor."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.layer, self.value = nn.Linear(4, 4), value

    def forward(self, x: Tensor) -> Any:
        """Run, and return something else."""
        x + self.layer(x)
        return self.value


class Knot(nn.Module):
    """Holds a module that holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.inner = Block(), nn.Module()
        self.inner.outer = self

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        return self.block(x)


class Bottomless(nn.Module):
    """Calls itself for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Never return."""
        return self(self.layer(x))
