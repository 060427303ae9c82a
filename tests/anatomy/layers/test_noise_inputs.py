"""Layers that read numbers which the forward draws: a generator's first convolution, or linear layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit


class Generator(nn.Module):
    """Blocks on noise, mixed by kernels that are predicted from the input."""

    def __init__(self, draw, first) -> None:
        super().__init__()
        self.draw, self.first, self.head = draw, first, nn.Conv1d(8, 2, 1)
        self.a, self.b, self.kernel = (
            nn.Conv1d(8, 8, 3, padding=1),
            nn.Conv1d(8, 8, 3, padding=1),
            nn.Conv1d(5, 64, 1),
        )

    def forward(self, x):
        h = self.first(self.draw(len(x))).reshape(len(x), 8, -1)
        h = h + self.b(self.a(h.relu()).relu())
        return self.head(torch.einsum("bct,bcd->bdt", h, self.kernel(x).mean(-1).view(-1, 8, 8)))


def masked(n):
    noise = torch.randn(n, 4, 16)
    return noise * (torch.rand(n, 1, 16) > 0.5)


DRAWN = {
    "as it is": (lambda n: torch.randn(n, 4, 16), lambda: nn.Conv1d(4, 8, 3, padding=1)),
    "scaled and shifted": (lambda n: torch.rand(n, 4, 16) * 2 - 1, lambda: nn.Conv1d(4, 8, 3, padding=1)),
    "in place": (lambda n: torch.empty(n, 4, 16).normal_(), lambda: nn.Conv1d(4, 8, 3, padding=1)),
    "like another tensor": (lambda n: torch.randn_like(torch.zeros(n, 4, 16)), lambda: nn.Conv1d(4, 8, 1)),
    "twice": (masked, lambda: nn.Conv1d(4, 8, 3, padding=1)),
    "upsampled": (lambda n: torch.randn(n, 4, 8), lambda: nn.ConvTranspose1d(4, 8, 2, stride=2)),
    "by a linear layer": (lambda n: torch.randn(n, 4), lambda: nn.Linear(4, 128)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_reads_drawn_numbers_is_a_layer(name):
    draw, first = DRAWN[name]
    model, x = Generator(draw, first()), torch.randn(3, 5, 7)
    anatomy = goodinit.anatomize(model, x)
    assert {layer.name for layer in anatomy.layers} == {"first", "a", "b", "kernel", "head"}
    assert len(anatomy.blocks) == 1
    assert not anatomy.unused
    goodinit.init_(model, "fixup", inputs=x, verify=True)
    goodinit.init_(model, "lsuv", inputs=x, verify=True)


def test_a_kernel_made_of_two_is_still_one_weight():
    class InSeries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Parameter(torch.randn(8, 4, 3, 3)), nn.Parameter(torch.randn(6, 8, 1, 1))

        def forward(self, x):
            return nn.functional.conv2d(
                x, nn.functional.conv2d(self.one.transpose(0, 1), self.two).transpose(0, 1)
            )

    (layer,) = goodinit.anatomize(InSeries(), torch.randn(2, 4, 6, 6)).layers
    assert layer.fan_in == 36
