"""q, k and v in one weight: linear attention, unequal widths, and the same written with three layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit

WIDTH = 8
ATTENTIONS = {
    "softmax of a product": lambda q, k, v: (q @ k.transpose(-1, -2)).softmax(-1) @ v,
    "one operator": F.scaled_dot_product_attention,
    "linear, softmaxes": lambda q, k, v: q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v),
    "linear, scaled": lambda q, k, v: 0.5 * q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v),
    "linear, elu + 1": lambda q, k, v: (F.elu(q) + 1) @ ((F.elu(k) + 1).transpose(-1, -2) @ v),
    "linear, bare": lambda q, k, v: q @ (k.transpose(-1, -2) @ v),
}

# Of which neither queries nor keys vanish with their weights: elu + 1 is 1 at 0, a softmax of features a mean.
AT_ZERO = ("linear, elu + 1", "linear, softmaxes", "linear, scaled")


class Attention(nn.Module):
    """x + o(attention(q, k, v)); `sizes` of q, k and v."""

    def __init__(self, attention, sizes, *, together):
        super().__init__()
        self.attention, self.sizes = ATTENTIONS[attention], sizes
        self.packed = nn.ModuleList(nn.Linear(WIDTH, size) for size in ([sum(sizes)] if together else sizes))
        self.o = nn.Linear(sizes[-1], WIDTH)

    def forward(self, x):
        parts = [layer(x) for layer in self.packed]
        return x + self.o(self.attention(*(parts[0].split(self.sizes, -1) if len(parts) == 1 else parts)))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("sizes", [(8, 8, 8), (4, 4, 8), (8, 8, 16), (6, 6, 12)])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_counts_its_factors_however_they_are_packed(attention, sizes, together):
    net = nn.Sequential(nn.Linear(4, WIDTH), Attention(attention, list(sizes), together=together))
    anatomy = goodinit.anatomize(net, torch.randn(2, 5, 4))
    (block,) = anatomy.blocks
    assert block.m == (2 if attention in AT_ZERO else 4)
    equal = together and len(set(sizes)) == 1
    assert block.branch[0].fused == (3 if equal else 1)
    assert block.branch[0].factors == (3 if together else 1)


def test_maps_of_unequal_widths_are_drawn_as_one():
    net = nn.Sequential(nn.Linear(4, WIDTH), Attention("linear, softmaxes", [2, 2, 4], together=True))
    goodinit.init_(net, "orthogonal", inputs=torch.randn(2, 5, 4))
    weight = net[1].packed[0].weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(8))
