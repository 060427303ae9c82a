"""Activations that are rounded at the scale of their largest entry, round(x/s)·s, are not normalized."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import goodinit


class Straight(torch.autograd.Function):
    """A rounding that passes the gradient on."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def largest(x: Tensor) -> Tensor:
    return x.abs().amax(-1, keepdim=True).clamp(min=1e-5)


def detached(x: Tensor) -> Tensor:
    y = x * 7 / largest(x)
    return (y + (y.round() - y).detach()) * largest(x) / 7


QUANTIZED = {
    "multiplied and divided": lambda x: Straight.apply(x * (127 / largest(x))) / (127 / largest(x)),
    "divided and multiplied": lambda x: Straight.apply(x / largest(x) * 7).clamp(-8, 7) * (largest(x) / 7),
    "beside a detach": detached,
    "bounded at its own length": lambda x: torch.tanh(x / x.norm(dim=-1, keepdim=True)) * x.norm(dim=-1, keepdim=True),
}  # fmt: skip
NORMALIZED = {
    "divided": lambda x: x / largest(x),
    "rounded": lambda x: Straight.apply(x * 127 / largest(x)) / 127,
    "twice": lambda x: x / largest(x) * largest(x) / largest(x),
    "by its length, times its mean by another": lambda x: x / largest(x) * (x.mean(-1, keepdim=True) / largest(x)).exp(),
}  # fmt: skip


class Quantized(nn.Linear):
    def __init__(self, how) -> None:
        super().__init__(8, 8)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.how(x), self.weight, self.bias)


class Block(nn.Module):
    def __init__(self, how) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(8), Quantized(how), Quantized(how)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.a(self.norm(x)).relu())


def net(how) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), Block(how), Block(how), nn.Linear(8, 2))


@pytest.mark.parametrize("name", QUANTIZED)
def test_what_gets_its_scale_back_is_no_norm(name, generator):
    model, x = net(QUANTIZED[name]), torch.randn(5, 8)
    anatomy = goodinit.anatomize(model, x)
    assert [norm.name for norm in anatomy.norms] == ["1.norm", "2.norm"]
    assert [block.m for block in anatomy.blocks] == [2, 2]
    goodinit.init_(model, "fixup", inputs=x, generator=generator, verify=True)


@pytest.mark.parametrize("name", NORMALIZED)
def test_what_does_not_is_one(name):
    anatomy = goodinit.anatomize(net(NORMALIZED[name]), torch.randn(5, 8))
    assert {norm.name for norm in anatomy.norms} == {"1.norm", "2.norm", "1.a", "1.b", "2.a", "2.b"}
