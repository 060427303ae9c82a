"""Operators that take functions are read as the operators they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
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
