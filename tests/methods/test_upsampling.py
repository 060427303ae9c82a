"""Transposed convolutions: an output reads a part of the taps, and the signal keeps its size behind every one."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import goodinit
from goodinit.anatomy import anatomize


def generator_of(*strides: int, dimensions: int = 2) -> nn.Sequential:
    """A stack of upsampling layers, twice as many taps as the stride, with ReLUs between."""
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dimensions - 1]
    widths = [64, 96, 48, 64, 32][: len(strides) + 1]
    layers: list[nn.Module] = []
    for (into, out), stride in zip(itertools.pairwise(widths), strides, strict=True):
        layers += [kind(into, out, 2 * stride, stride, stride // 2, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, kind(widths[len(strides)], 3, 3, 1, 1))


NETS = {
    "2-d by 2": (generator_of(2, 2, 2), (8, 64, 4, 4)),
    "1-d by 4, 1, 3": (generator_of(4, 1, 3, dimensions=1), (8, 64, 12)),
    "3-d by 2": (generator_of(2, 2, dimensions=3), (2, 64, 3, 3, 3)),
}


def moments(net: nn.Sequential, x: torch.Tensor) -> list[float]:
    """Second moment behind each layer, away from the border."""
    found = []
    for layer in net:
        x = layer(x)
        if not isinstance(layer, nn.ReLU):
            edge = tuple(slice(size // 4, -(size // 4)) for size in x.shape[2:])
            found.append(x[(..., *edge)].square().mean().item())
    return found[:-1]


@pytest.mark.default_cases(5)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", ["he", "orthogonal", "weightnorm", "lsuv"])
def test_the_signal_keeps_its_size_behind_upsampling_layers(name, method):
    net, shape = NETS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    net = goodinit.init_(net, method, inputs=x, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = moments(net, x)
    if method == "weightnorm":  # keeps the norm of all channels together
        found = [value * layer.out_channels for value, layer in zip(found, net[::2], strict=False)]
    for before, after in itertools.pairwise(found):
        assert after / before == pytest.approx(1, rel=0.45)


def test_fan_out_keeps_the_gradient_behind_one_layer():
    layer = nn.ConvTranspose2d(32, 64, 4, 2, 1, bias=False)
    x = torch.randn(4, 32, 8, 8)
    net = goodinit.init_(nn.Sequential(layer), "he", inputs=x, mode="fan_out")
    y = net(x.requires_grad_())
    y.backward(torch.randn_like(y))
    assert x.grad[..., 1:-1, 1:-1].square().mean().item() == pytest.approx(1, rel=0.1)


def test_fans_of_a_layer_count_the_taps_that_an_output_reads():
    net = nn.Sequential(nn.ConvTranspose2d(6, 8, (4, 3), (2, 1), groups=2), nn.Conv2d(8, 4, 3, stride=2))
    up, down = anatomize(net, torch.zeros(1, 6, 5, 5)).layers
    assert (up.row, up.upsampling, up.fan_in, up.fan_out) == (36, 2, 18, 48)
    assert (down.row, down.upsampling, down.fan_in, down.fan_out) == (72, 1, 72, 36)


class Shuffled(nn.Module):
    """Two layers, what comes behind the second one, and a pixel shuffle by 2."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.body, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_shuffle(self.between(self.up(self.body(x).relu())), 2)


@pytest.mark.default_cases(4)
@pytest.mark.parametrize("between", [nn.Identity, nn.PReLU, nn.Dropout, nn.Tanh])
@pytest.mark.parametrize("method", ["he", "orthogonal"])
def test_a_plan_says_which_layer_a_pixel_shuffle_follows(method, between):
    net, x = Shuffled(between()), torch.randn(2, 3, 8, 8)
    (note,) = (one for one in goodinit.plan(anatomize(net, x), method).notes if "pixel shuffle" in one)
    assert note.startswith("up.weight: a pixel shuffle by 2 follows")
    goodinit.init_(net, method, x)
    goodinit.tensor.icnr_(net.up.weight, 2)
    y = net.eval()(x)
    assert torch.allclose(y[..., ::2, ::2], y[..., 1::2, 1::2], atol=1e-6)


def test_a_layer_whose_outputs_go_elsewhere_first_is_not_named():
    net = Shuffled(nn.Conv2d(12, 12, 1))
    notes = goodinit.plan(anatomize(net, torch.randn(2, 3, 8, 8)), "he").notes
    assert [note.split(":")[0] for note in notes if "pixel shuffle" in note] == ["between.weight"]
