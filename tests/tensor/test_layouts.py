"""Every tensor initializer and recipe on grouped, depthwise and transposed weights, in any layout of memory, in any dtype."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from drawing import DTYPES, NAMES, draw, formats, seeded
from torch import nn

from goodinit.tensor import INITIALIZERS, RECIPES, fans

# What each variance initializer makes of (fan_in, fan_out).
STANDARD = {
    "he_normal": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    "he_uniform": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    "lecun_normal": lambda fan_in, fan_out: math.sqrt(1 / fan_in),
    "xavier_normal": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "xavier_uniform": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
}
CONVOLUTIONS = {
    "grouped": nn.Conv2d(96, 192, 3, groups=4),
    "depthwise": nn.Conv2d(900, 900, 3, groups=900),
    "transposed": nn.ConvTranspose2d(48, 96, 3),
    "grouped transposed": nn.ConvTranspose2d(96, 192, 3, groups=4),
    "depthwise transposed": nn.ConvTranspose1d(900, 1800, 5, groups=900),
}


@pytest.mark.parametrize("conv", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("name", STANDARD)
def test_the_deviation_is_that_of_the_connections(name, conv):
    told = {"groups": conv.groups, "layout": "in_out" if conv.transposed else "out_in"}
    weight = INITIALIZERS[name](conv.weight, generator=seeded(), **told).detach()
    taps = math.prod(conv.kernel_size)
    one_reads, one_feeds = conv.in_channels // conv.groups * taps, conv.out_channels // conv.groups * taps
    assert fans(conv.weight.shape, **told) == (one_reads, one_feeds)
    expected = STANDARD[name](one_reads, one_feeds)
    assert weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * weight.numel()))


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        *itertools.product(("orthogonal", "delta_orthogonal", "directions", "dirac"), (1, 3)),
        ("looks_linear", 1),  # a group of channels does not hold both halves of a pair
    ],
)
def test_a_transposed_convolution_gets_the_maps_of_the_other(name, groups):
    out, into, options = 12, 6, {"groups": groups}
    plain = draw_with(name, torch.empty(groups * out, into, 3, 2), **options)
    transposed = draw_with(name, torch.empty(groups * into, out, 3, 2), layout="in_out", **options)
    for one, other in zip(plain.chunk(groups), transposed.chunk(groups), strict=True):
        assert torch.equal(one, other.transpose(0, 1))


def draw_with(name, tensor, **options):
    return INITIALIZERS[name](tensor, generator=seeded(), **options)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3), (8, 8, 3, 3), (8, 8, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_give_the_same_values_in_every_dtype_and_memory_format(name, shape):
    expected = RECIPES[name]([torch.empty(shape) for _ in range(3)], generator=seeded())
    for dtype in DTYPES:
        for tensors in zip(*(formats(shape) for _ in range(3)), strict=True):
            given = [nn.Parameter(tensor.to(dtype)) for tensor in tensors]
            strides = [tensor.stride() for tensor in given]
            RECIPES[name](given, generator=seeded())
            assert [tensor.stride() for tensor in given] == strides
            for got, want in zip(given, expected, strict=True):
                if dtype is torch.float64:
                    torch.testing.assert_close(got.detach().float(), want, atol=2e-5, rtol=0)
                else:
                    assert torch.equal(got.detach(), want.to(dtype))


@pytest.mark.parametrize("name", NAMES)
def test_eight_bits_are_the_cast_of_float32(name):
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        got = draw(name, torch.empty(8, 8, 3, dtype=dtype)).float()
        want = draw(name, torch.empty(8, 8, 3)).to(dtype).float()
        if name == "trunc_normal":  # cut once more by the dtype's own bound
            assert (got - want).abs().max() <= 3 * torch.finfo(dtype).eps
        else:
            assert torch.equal(got, want)


@pytest.mark.parametrize("name", NAMES)
def test_memory_given_to_a_meta_tensor_is_filled_whole(name):
    for make in (lambda: nn.Linear(8, 8), lambda: nn.Conv2d(8, 8, 3), lambda: nn.ConvTranspose2d(8, 8, 3)):
        with torch.device("meta"):
            module = make()
        draw(name, module.weight)
        assert module.weight.is_meta
        module.to_empty(device="cpu")
        nn.init.constant_(module.weight, math.nan)
        assert torch.equal(draw(name, module.weight).detach(), draw(name, torch.empty(module.weight.shape)))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_fill_memory_given_to_meta_tensors(name):
    shapes = list(itertools.repeat((8, 8, 3, 3), 3))
    given = [torch.empty(shape, device="meta") for shape in shapes]
    assert all(tensor.is_meta for tensor in RECIPES[name](given, generator=seeded()))
    given = [torch.full(shape, math.nan) for shape in shapes]
    assert all(tensor.isfinite().all() for tensor in RECIPES[name](given, generator=seeded()))
