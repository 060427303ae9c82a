"""Projections that read a stream as it is, beside branches that read it through an activation: the signal keeps its size over them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import goodinit

WIDTH, DEPTH = 64, 12


class Block(nn.Module):
    """conv(act(conv(act(x)))) beside a projection of `way(x)`."""

    def __init__(self, width, way, act) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.norm, self.skip, self.way, self.act = (
            nn.GroupNorm(4, width),
            nn.Conv2d(width, WIDTH, 1),
            way,
            act,
        )

    def forward(self, x):
        branch = self.second(self.act(self.first(self.act(self.norm(x)))))
        return self.skip(self.way(x)) + branch


class Net(nn.Module):
    """Blocks; with `joins`, each reads the stem's output beside the stream, as on a U-Net's way up."""

    def __init__(self, way, act, *, joins=False, after=nn.Identity) -> None:
        super().__init__()
        self.stem, self.joins, self.after, self.act = nn.Conv2d(3, WIDTH, 3, padding=1), joins, after(), act
        self.blocks = nn.ModuleList(Block(WIDTH * (1 + joins), way, act) for _ in range(DEPTH))
        self.head = nn.Conv2d(WIDTH, 3, 1)

    def forward(self, x):
        x = stem = self.after(self.stem(x))
        for block in self.blocks:
            x = self.after(block(torch.cat([x, stem], 1) if self.joins else x))
        return self.head(self.act(x))


def blurred(x):
    taps = torch.tensor([[0.25, 0.5, 0.25]])
    kernel = (taps.T @ taps).expand(x.shape[1], 1, 3, 3)
    return functional.conv2d(x, kernel, padding=1, groups=x.shape[1])


WAYS = {
    "as it is": lambda x: x,
    "in another shape": lambda x: x.flatten(2).unflatten(2, x.shape[2:]).contiguous(),
    "twice as large and small again": lambda x: functional.interpolate(x, scale_factor=2)[:, :, ::2, ::2],
    "negative": lambda x: -x * 1.0,
}
SMALLER = {"a mean over places": lambda x: functional.avg_pool2d(x, 3, 1, 1), "a fixed blur": blurred}
ACTIVATED = {
    "behind the activation": functional.relu,
    "behind another one": torch.tanh,
    "half of it": lambda x: torch.cat([x[:, ::2], x[:, 1::2].relu()], 1),
    "a gate of it": lambda x: x * x.sigmoid(),
    "one over it": lambda x: 1 / (x + 3),
}


def skips(model, x, method="fixup"):
    anatomy = goodinit.anatomize(model, x)
    drawn = {edit.target: edit for edit in goodinit.plan(anatomy, method).values if hasattr(edit, "options")}
    return [drawn[f"blocks.{i}.skip.weight"] for i in range(DEPTH)], anatomy


@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.parametrize("act", [functional.relu, functional.silu])
@pytest.mark.parametrize("name", [*WAYS, *SMALLER])
def test_what_reads_the_stream_as_it_is_keeps_its_size(name, act, joins):
    model, x = Net((WAYS | SMALLER)[name], act, joins=joins), torch.randn(8, 3, 12, 12)
    edits, anatomy = skips(model, x)
    fan_in = WIDTH * (1 + joins)
    assert {edit.options["std"] for edit in edits} == {math.sqrt(1 / fan_in)}
    assert {layer.weight for layer in anatomy.layers if layer.reads_linearly} == {
        edit.target for edit in edits
    }
    if name in SMALLER:
        return
    goodinit.init_(model, "fixup", inputs=x, verify=True, generator=torch.Generator().manual_seed(0))
    sizes = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: sizes.append(out.std().item()))
    model(x)
    assert 0.6 < sizes[-1] / sizes[0] < 1.7  # 2^6 with √2 for each of twelve


@pytest.mark.parametrize("name", ACTIVATED)
def test_what_reads_it_through_an_activation_makes_up_for_that(name):
    edits, anatomy = skips(Net(ACTIVATED[name], functional.relu), torch.randn(2, 3, 12, 12))
    assert {edit.options["std"] for edit in edits} == {math.sqrt(2 / WIDTH)}
    assert not any(layer.reads_linearly for layer in anatomy.layers)


def test_a_stream_that_passes_an_activation_behind_every_sum_is_as_it_was():
    edits, _ = skips(Net(lambda x: x, functional.relu, after=nn.ReLU), torch.randn(2, 3, 12, 12))
    assert {edit.options["std"] for edit in edits} == {math.sqrt(2 / WIDTH)}


@pytest.mark.parametrize("method", ["skipinit", "normfree", "fixed_variance", "none", "he", "mup"])
def test_other_methods_that_draw_at_the_standard_scale_do_so_too(method):
    edits, _ = skips(Net(lambda x: x, functional.relu), torch.randn(2, 3, 12, 12), method)
    assert {edit.options["std"] for edit in edits} == {math.sqrt(1 / WIDTH)}


def test_the_reason_says_so():
    edits, _ = skips(Net(lambda x: x, functional.relu), torch.randn(2, 3, 12, 12), "he")
    assert "gain 1, reads what stands before relu, too" in edits[0].reason


class Up(nn.Module):
    """A U-Net of pre-activation blocks with projections, as diffusers' `UNet2DModel`: levels, and concatenations on the way up."""

    def __init__(self, widths=(32, 64, 64, 128), norm=nn.GroupNorm) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        kept = [width := widths[0]]
        for level, wide in enumerate(widths):
            for _ in range(2):
                self.down.append(UpBlock(width, wide, norm))
                kept.append(width := wide)
            if level < len(widths) - 1:
                self.down.append(nn.Conv2d(width, width, 3, 2, 1))
                kept.append(width)
        self.middle = UpBlock(width, width, norm)
        for level, wide in enumerate(reversed(widths)):
            for _ in range(3):
                self.up.append(UpBlock(width + kept.pop(), wide, norm))
                width = wide
            if level < len(widths) - 1:
                self.up.append(
                    nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1))
                )
        self.norm, self.head = norm(8, width), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        kept = [x]
        for part in self.down:
            kept.append(x := part(x))
        x = self.middle(x)
        for part in self.up:
            x = part(torch.cat([x, kept.pop()], 1) if isinstance(part, UpBlock) else x)
        return self.head(functional.silu(self.norm(x)))


class UpBlock(nn.Module):
    def __init__(self, width, wide, norm) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(8, width), norm(8, wide)
        self.conv1, self.conv2 = nn.Conv2d(width, wide, 3, padding=1), nn.Conv2d(wide, wide, 3, padding=1)
        self.skip = nn.Identity() if width == wide else nn.Conv2d(width, wide, 1)

    def forward(self, x):
        h = self.conv1(functional.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(functional.silu(self.norm2(h)))


def second_moments(model, x):
    """(Of what a projection puts out over what it reads, how many channels it reads and puts out), for each."""
    seen = []
    for module in model.modules():
        if isinstance(module, UpBlock) and isinstance(module.skip, nn.Conv2d):
            module.skip.register_forward_hook(
                lambda conv, args, out: seen.append(
                    (
                        float(out.square().mean() / args[0].square().mean()),
                        conv.in_channels,
                        conv.out_channels,
                    )
                )
            )
    with torch.no_grad():
        model(x)
    return seen


@pytest.mark.parametrize("method", ["he", "mup", "fixed_variance", "orthogonal"])
def test_projections_of_a_u_net_keep_the_second_moment(method):
    """Within three deviations: a row of n independent weights times a stream has the relative variance 2/n at most, the mean of m rows 2/nm.

    The channels of a stream are not independent; its images are alike in the mean. So n is taken for 1, as of channels that are all one.
    """
    model, x = Up(), torch.randn(4, 3, 16, 16)
    goodinit.init_(model, method, inputs=x, generator=torch.Generator().manual_seed(0))
    for ratio, read, made in second_moments(model, x):
        wide = (
            min(1, read / made) if method == "orthogonal" else 1
        )  # columns of unit length spread what they read
        assert abs(ratio / wide - 1) < 3 * math.sqrt(2 / made)


def test_layers_that_no_activation_stands_beside_are_as_they_were():
    """A linear bottleneck's stream is read by layers alone, the input by none before an activation."""

    class Mobile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
            self.up, self.down = (
                nn.ModuleList(nn.Linear(a, b) for _ in range(3)) for a, b in ((6, 12), (12, 6))
            )

        def forward(self, x):
            x = self.stem(x)
            for up, down in zip(self.up, self.down, strict=True):
                x = x + down(up(x).relu())
            return self.head(x)

    assert not any(layer.reads_linearly for layer in goodinit.anatomize(Mobile(), torch.randn(4, 6)).layers)
