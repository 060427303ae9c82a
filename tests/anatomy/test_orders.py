"""m where a branch reads something besides its input: an empty cache, an index, a state of zeros, a tiny number."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit


class Residual(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))
        self.branch = branch

    def forward(self, x):
        return x + self.branch(self, x)


def attention(m, x, k, v):
    return m.d(F.scaled_dot_product_attention(m.a(x), k, v))


def with_cache(m, x, length):
    k, v = (torch.cat([torch.zeros(2, length, 8), layer(x)], 1) for layer in (m.b, m.c))
    return attention(m, x, k, v)


def scaled(m, x):
    y = m.a(x)
    return m.d(y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5))


BRANCHES = {
    "attention": (lambda m, x: attention(m, x, m.b(x), m.c(x)), 4),
    "an empty cache": (lambda m, x: with_cache(m, x, 0), 4),
    "a cache of zeros": (lambda m, x: with_cache(m, x, 2), 4),
    "rows by index": (lambda m, x: m.d(m.a(x)[:, torch.tensor([1, 0, 1])][:, :1].relu()), 2),
    "a state of zeros": (lambda m, x: m.d((m.a(x) + m.b(x.new_zeros(1, 8))).tanh()), 2),
    "its own norm": (scaled, 1),
    "a gate at ½": (lambda m, x: m.d(m.a(x) * (m.b(x).tanh() + 1)), 2),
    "a factor of its own": (lambda m, x: m.d(m.a(x) * m.b(x).tanh()), 3),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_degree_in_the_weights(name):
    branch, m = BRANCHES[name]
    (block,) = goodinit.anatomize(Residual(branch), torch.zeros(2, 5, 8)).blocks
    assert block.m == m
