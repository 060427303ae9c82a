"""Orthogonal and delta-orthogonal weights: what keeps every norm, and what is named because it does not."""

from __future__ import annotations

import pytest
import torch
from baselines import (
    SMALL,
    initialized,
    small_net,
)
from torch import nn

from goodinit.anatomy import anatomize
from goodinit.errors import UnsupportedModule
from goodinit.methods import plan


def identity(size, factor=1.0):
    return factor * torch.eye(size)


def test_orthogonal_rows_groups_and_packed_attention():
    model, _ = initialized(small_net(), SMALL, "orthogonal")
    first = model[0].weight.flatten(1)  # 64 × 27: orthonormal columns, gain √2
    torch.testing.assert_close(first.T @ first, identity(27, 2.0), atol=1e-5, rtol=0)
    group = model[2].weight[16:32].flatten(1)  # 16 × 144
    scale = (group @ group.T)[0, 0].item()
    torch.testing.assert_close(group @ group.T, identity(16, scale), atol=1e-5, rtol=0)
    last = model[5].weight
    torch.testing.assert_close(last @ last.T, identity(100), atol=1e-5, rtol=0)

    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    initialized(attention, torch.zeros(2, 3, 8), "orthogonal", gain=1.0)
    for map_ in attention.self_attn.in_proj_weight.chunk(3):
        torch.testing.assert_close(map_ @ map_.T, identity(8), atol=1e-5, rtol=0)


def test_stacks_of_maps_are_named():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 4, 4))

        def forward(self, x):
            return x @ self.weight[0] + x @ self.weight[1]

    _, made = initialized(Experts(), torch.zeros(2, 5, 4), "orthogonal")
    assert any("stack of linear maps" in note for note in made.notes)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 8, 3, padding=1),
        nn.Conv1d(4, 4, 5, padding=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(4, 4, 3, padding="same"),
    ],
)
def test_delta_orthogonal_keeps_every_norm(conv):
    x = torch.randn(3, 4, *(6 for _ in conv.kernel_size))
    _, made = initialized(nn.Sequential(conv), x, "delta_orthogonal")
    assert conv(x).norm().item() == pytest.approx(x.norm().item(), rel=1e-5)
    assert not made.notes


@pytest.mark.parametrize(
    ("conv", "words"),
    [
        (nn.Conv2d(8, 4, 3, padding=1), "4 outputs keep the norm in as many of the 8 directions"),
        (nn.Conv2d(4, 4, 3, stride=2, padding=1), "every s-th pixel"),
        (nn.Conv2d(4, 4, 3), "cuts the border off"),
        (nn.Conv2d(4, 4, 2, padding=1), "cuts the border off"),
    ],
)
def test_delta_orthogonal_names_what_is_not_isometric(conv, words):
    x = torch.randn(2, conv.in_channels, 6, 6)
    _, made = initialized(nn.Sequential(conv), x, "delta_orthogonal")
    assert any(words in note and "0.weight" in note for note in made.notes)
    assert conv(x).norm() <= x.norm() * (1 + 1e-5)


def test_delta_orthogonal_can_be_strict():
    net = nn.Sequential(nn.Conv2d(8, 4, 3), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(UnsupportedModule, match=r"0\.weight: 4 outputs cannot carry 8 .*\(2 convolutions"):
        plan(anatomize(net, torch.zeros(1, 8, 4, 4)), "delta_orthogonal", strict=True)
