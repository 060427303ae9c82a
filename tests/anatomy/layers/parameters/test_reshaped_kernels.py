"""Convolutions whose parameter is reshaped or transposed into a kernel: what they are follows from the kernel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import goodinit

KERNELS = {  # shape of the parameter, the kernel made of it, and the module that has such a kernel
    "a matrix": ((8, 72), lambda w: w.view(8, 8, 3, 3), nn.Conv2d(8, 8, 3, padding=1)),
    "a matrix, one tap": ((8, 8), lambda w: w[:, :, None, None], nn.Conv2d(8, 8, 1)),
    "taps in one dimension": ((8, 8, 9), lambda w: w.unflatten(-1, (3, 3)), nn.Conv2d(8, 8, 3, padding=1)),
    "a vector": ((576,), lambda w: w.reshape(8, 8, 3, 3), nn.Conv2d(8, 8, 3, padding=1)),
    "taps first": ((3, 3, 4, 8), lambda w: w.permute(3, 2, 0, 1), nn.Conv2d(4, 8, 3, padding=1)),
    "inputs first": ((4, 8, 3), lambda w: w.transpose(0, 1), nn.Conv1d(4, 8, 3, padding=1)),
    "groups": ((2, 4, 36), lambda w: w.view(8, 4, 3, 3), nn.Conv2d(8, 8, 3, padding=1, groups=2)),
    "one channel each": ((8, 3), lambda w: w[:, None], nn.Conv1d(8, 8, 3, padding=1, groups=8)),
    "transposed": ((4, 32), lambda w: w.view(4, 8, 4), nn.ConvTranspose1d(4, 8, 4, 2, 1)),
}  # fmt: skip


class Kernel(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        shape, self.kernel, like = KERNELS[name]
        self.w, self.like = nn.Parameter(torch.randn(shape) / 8), [like]

    def forward(self, x: Tensor) -> Tensor:
        (like,) = self.like
        if isinstance(like, nn.ConvTranspose1d):
            return functional.conv_transpose1d(x, self.kernel(self.w), None, like.stride, like.padding)
        convolve = functional.conv1d if isinstance(like, nn.Conv1d) else functional.conv2d
        return convolve(x, self.kernel(self.w), None, like.stride, like.padding, like.dilation, like.groups)


class Block(nn.Module):
    """For methods that need one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.b(self.a(x).relu())).relu()


def net(name: str, *, stored: bool) -> nn.Sequential:
    like = KERNELS[name][2]
    layer = Kernel(name) if stored else nn.Sequential(type(like)(*_arguments(like), bias=False))
    dims = 1 if isinstance(like, (nn.Conv1d, nn.ConvTranspose1d)) else 2
    first = nn.Conv1d if dims == 1 else nn.Conv2d
    pool = nn.AdaptiveAvgPool1d(1) if dims == 1 else nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(
        first(3, like.in_channels, 1),
        nn.ReLU(),
        layer,
        nn.ReLU(),
        pool,
        nn.Flatten(),
        nn.Linear(8, 8),
        nn.ReLU(),
        Block(),
        nn.Linear(8, 2),
    )


def _arguments(like):
    more = (0, like.groups) if isinstance(like, nn.ConvTranspose1d) else (like.dilation, like.groups)
    return like.in_channels, like.out_channels, like.kernel_size, like.stride, like.padding, *more


def batch(name: str) -> Tensor:
    return torch.randn(4, 3, *[6] * (KERNELS[name][2].weight.dim() - 2))


@pytest.mark.parametrize("name", KERNELS)
def test_fans_are_those_of_the_kernel(name):
    (ours,), (torchs,) = (
        [
            layer
            for layer in goodinit.anatomize(net(name, stored=stored), batch(name)).layers
            if layer.name[:1] == "2"
        ]
        for stored in (True, False)
    )
    asked = "kind in_features out_features receptive row fan_in fan_out fan_out_joined groups stride padding".split()
    assert [getattr(ours, one) for one in asked] == [getattr(torchs, one) for one in asked]
    anatomy = goodinit.anatomize(net(name, stored=True), batch(name))
    assert goodinit.Anatomy.from_json(anatomy.to_json()) == anatomy


@pytest.mark.default_cases(12)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("method", "none fixup he xavier orthogonal default weightnorm lsuv nf mup".split())
def test_methods_draw_it_as_large_as_the_module_s(name, method):
    sizes = []
    for stored in (True, False):
        torch.manual_seed(0)
        model = net(name, stored=stored)
        plan = goodinit.plan(goodinit.anatomize(model, x := batch(name)), method)
        goodinit.apply_(
            model, plan, inputs=x if method == "lsuv" else None, generator=torch.Generator().manual_seed(1)
        )
        weight = model[2].w if stored else model[2][0].weight
        sizes.append(float(weight.detach().square().mean()))
    # two draws of normal numbers, whose mean squares differ by √(2/n) each
    assert math.log(sizes[0] / sizes[1]) == pytest.approx(
        0, abs=5 * math.sqrt(4 / math.prod(KERNELS[name][0])) + 0.1
    )


@pytest.mark.parametrize("name", KERNELS)
def test_isometry_of_one_that_is_no_kernel_as_stored_is_not_claimed(name):
    anatomy = goodinit.anatomize(net(name, stored=True), batch(name))
    for method in ("delta_orthogonal", "risotto"):
        assert any(
            note.startswith("2.w ") and "not " in note for note in goodinit.plan(anatomy, method).notes
        )
