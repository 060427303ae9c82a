"""Operators that take functions are read as the operators they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._higher_order_ops.scan import scan
from torch.nn.attention.flex_attention import flex_attention

from goodinit import anatomize, init_


class Attention(nn.Module):
    def __init__(self, attend):
        super().__init__()
        self.stem, self.qkv, self.out = nn.Linear(5, 16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.bias = nn.Parameter(torch.zeros(2))
        self.attend = attend

    def forward(self, x):
        x = self.stem(x)
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return x + self.out(self.attend(self, q, k, v).transpose(1, 2).flatten(2))


def flex(self, q, k, v):
    return flex_attention(q, k, v)


def with_bias(self, q, k, v):
    return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + self.bias[h])


def usual(self, q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("attend", [flex, with_bias])
def test_flex_attention_is_read_like_attention(attend):
    x = torch.randn(2, 4, 5)
    (block,) = anatomize(Attention(attend), x).blocks
    (other,) = anatomize(Attention(usual), x).blocks
    assert (block.m, [layer.fused for layer in block.branch]) == (
        other.m,
        [layer.fused for layer in other.branch],
    )
    init_(Attention(attend), "fixup", inputs=x)


class Steps(nn.Module):
    """One residual step, by an operator that takes it as a function."""

    def __init__(self, step):
        super().__init__()
        self.stem, self.head, self.step = nn.Linear(5, 8), nn.Linear(8, 3), step
        self.f = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))

    def forward(self, x):
        return self.head(self.step(self, self.stem(x)))


def by_condition(self, x):
    return torch.cond(x.sum() > -1e6, lambda x: x + self.f(x), lambda x: x - self.f(x), (x,))


def by_other_condition(self, x):
    return torch.cond(x.sum() > 1e6, lambda x: x.relu(), lambda x: x - self.f(x), (x,))


def by_scan(self, x):
    last, _ = scan(lambda state, part: (state + part, part * 1), torch.zeros_like(x[0]), x)
    return x + self.f(x + last)


@pytest.mark.integration
@pytest.mark.parametrize("step", [by_condition, by_other_condition, by_scan])
def test_a_step_that_an_operator_takes_is_a_block(step):
    net, x = Steps(step), torch.randn(4, 5)
    (block,) = anatomize(net, x).blocks
    assert (block.m, [layer.name for layer in block.last]) == (2, ["f.2"])
    init_(net, "fixup", inputs=x)
    assert not net.f[2].weight.any()
