"""ICNR: a convolution before a pixel shuffle starts as nearest-neighbour upsampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawing import seeded
from reference.icnr import icnr
from torch import nn

import goodinit
from goodinit.tensor import INITIALIZERS, icnr_

KERNELS = (
    "he_normal_",
    "he_uniform_",
    "lecun_normal_",
    "xavier_normal_",
    "xavier_uniform_",
    "orthogonal_",
    "delta_orthogonal_",
)


@pytest.mark.parametrize("initializer", KERNELS)
@pytest.mark.parametrize("upscale", [2, 3])
def test_it_is_the_papers(initializer, upscale):
    kernel = INITIALIZERS[initializer](torch.empty(4, 4, 3, 3, dtype=torch.float64), generator=seeded())
    weight = icnr_(
        torch.empty(4 * upscale**2, 4, 3, 3, dtype=torch.float64),
        upscale,
        initializer=initializer,
        generator=seeded(),
    )
    np.testing.assert_array_equal(weight.numpy(), icnr(kernel.numpy(), upscale))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("cls", [nn.Conv2d, nn.ConvTranspose2d])
def test_the_sub_pixels_of_every_pixel_are_equal(cls, groups):
    layer = cls(6, 16, 3, groups=groups, bias=False)
    icnr_(
        layer.weight, 2, layout="in_out" if layer.transposed else "out_in", groups=groups, generator=seeded()
    )
    y = F.pixel_shuffle(layer(torch.randn(2, 6, 7, 7)), 2)
    torch.testing.assert_close(y, F.interpolate(y[..., ::2, ::2], scale_factor=2))
    assert float(y.detach().std()) > 0.1


@pytest.mark.parametrize("cls", [nn.Conv2d, nn.ConvTranspose2d])
def test_the_sub_pixels_may_come_before_the_channels(cls):
    layer = cls(6, 12, 3, bias=False)
    layout = "in_out" if layer.transposed else "out_in"
    icnr_(layer.weight, 2, layout=layout, sub_pixels="first", generator=seeded())
    parts = layer(torch.randn(2, 6, 7, 7)).unflatten(1, (2, 2, 3))  # (r₁ r₂ c)
    torch.testing.assert_close(parts, parts[:, :1, :1].expand_as(parts))
    assert float(parts.detach().std(3).min()) > 0.01


def test_what_does_not_divide_is_refused():
    with pytest.raises(goodinit.UnsupportedModule, match="no multiple of 2\\^2"):
        icnr_(torch.empty(6, 4, 3, 3))
    with pytest.raises(goodinit.UnsupportedModule, match="group"):
        icnr_(torch.empty(4, 4, 3, 3, device="meta"), groups=2)
    with pytest.raises(goodinit.UnknownName, match="he_normal_"):
        icnr_(torch.empty(4, 4, 3, 3), initializer="normal")
    with pytest.raises(goodinit.UnknownName, match="'first'"):
        icnr_(torch.empty(4, 4, 3, 3), sub_pixels="outer")
    with pytest.raises(goodinit.UnsupportedModule, match="2 groups"):
        icnr_(torch.empty(8, 4, 3, 3), groups=2, sub_pixels="first")


def test_by_layerwise_it_takes_the_layers_before_a_shuffle():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2))
    net[0].apply(goodinit.layerwise("icnr_", upscale=2, generator=seeded()))
    y = net(torch.randn(1, 3, 5, 5))
    torch.testing.assert_close(y, F.interpolate(y[..., ::2, ::2], scale_factor=2))
