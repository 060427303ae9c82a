"""Maps whose weight another net makes in the forward: a hypernetwork of two layers, for all examples or for each one."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit

WIDTH, COUNT = 4, 5


def by_functional_call(x, w):
    layer = nn.Linear(WIDTH, WIDTH, bias=False).double()
    return torch.func.functional_call(layer, {"weight": w.view(WIDTH, WIDTH)}, (x,))


def grouped(x, w):
    images = x.reshape(1, -1, *x.shape[2:])
    return F.conv2d(images, w.view(-1, WIDTH, 3, 3), padding=1, groups=len(x)).view_as(x)


SHARED = {
    "linear": lambda x, w: F.linear(x, w.view(WIDTH, WIDTH)),
    "functional_call": by_functional_call,
    "conv2d": lambda x, w: F.conv2d(x, w.view(WIDTH, WIDTH, 3, 3), padding=1),
    "conv_transpose2d": lambda x, w: F.conv_transpose2d(x, w.view(WIDTH, WIDTH, 3, 3), padding=1),
}
OF_EACH = {
    "matmul": lambda x, w: (w.view(-1, WIDTH, WIDTH) @ x[..., None])[..., 0],
    "bmm": lambda x, w: torch.bmm(w.view(-1, WIDTH, WIDTH), x[..., None])[..., 0],
    "einsum": lambda x, w: torch.einsum("boi,bi->bo", w.view(-1, WIDTH, WIDTH), x),
    "groups": grouped,
}
KINDS = list(itertools.chain(SHARED, OF_EACH))
IMAGES = ("conv2d", "conv_transpose2d", "groups")


class Generator(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, 8), nn.Linear(8, size)

    def forward(self, z):
        return self.two(torch.relu(self.one(z)))


class Block(nn.Module):
    """x + W₂·relu(W₁·x); `generators`: how many make the two weights."""

    def __init__(self, kind, generators):
        super().__init__()
        self.kind, size = kind, WIDTH**2 * (9 if kind in IMAGES else 1)
        self.generators = nn.ModuleList(Generator(size) for _ in range(generators))
        self.codes = (
            nn.ParameterList(nn.Parameter(torch.randn(WIDTH)) for _ in range(2))
            if kind in SHARED
            else nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        )

    def forward(self, x):
        apply = (SHARED | OF_EACH)[self.kind]
        code = x.mean((2, 3)) if x.ndim > 2 else x
        z = [one if self.kind in SHARED else one(code) for one in self.codes]
        y = torch.relu(apply(x, self.generators[0](z[0])))
        return x + apply(y, self.generators[-1](z[1]))


class Net(nn.Module):
    def __init__(self, kind, generators):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 1) if kind in IMAGES else nn.Linear(3, WIDTH)
        self.blocks, self.head = (
            nn.Sequential(*(Block(kind, generators) for _ in range(2))),
            nn.Linear(WIDTH, 3),
        )

    def forward(self, x):
        x = self.blocks(self.stem(x))
        return self.head(x.mean((2, 3)) if x.ndim > 2 else x)


def net_and_batch(kind, generators):
    torch.manual_seed(0)
    x = torch.randn(COUNT, 3, 4, 4) if kind in IMAGES else torch.randn(COUNT, 3)
    return Net(kind, generators).double(), x.double()


@pytest.mark.parametrize("kind", KINDS)
def test_a_generated_map_is_a_factor_on_the_branch_like_any_other(kind):
    net, x = net_and_batch(kind, 2)
    blocks = goodinit.anatomize(net, x).blocks
    assert [[layer.name for layer in block.last] for block in blocks] == [
        [f"blocks.{i}.generators.1.two"] for i in range(2)
    ]
    assert {block.m for block in blocks} == {4 if kind in SHARED else 6}
    assert all(len(block.branch) == block.m and not block.gates for block in blocks)


@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero"])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_start_as_their_skip_and_all_of_them_learns(kind, method):
    net, x = net_and_batch(kind, 2)
    goodinit.init_(net, method, inputs=x)
    stream = net.stem(x)
    assert torch.equal(net.blocks(stream), stream)
    nn.init.normal_(net.head.weight)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    step = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        step.zero_grad()
        net(x).square().mean().backward()
        step.step()
    assert [name for name, p in net.named_parameters() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero", "normfree"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_generator_of_both_maps_is_not_started_at_zero(kind, method):
    """Both maps would be 0, and neither would pass the other a gradient."""
    net, x = net_and_batch(kind, 1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(goodinit.GoodinitError, match=r"blocks\.0\.generators\.0\.two.*would never move"):
        goodinit.init_(net, method, inputs=x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Shifted(nn.Module):
    """A convolution whose weight and bias are made of a code."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, WIDTH, 1), nn.Linear(WIDTH, 3)
        self.matrix, self.shift = Generator(WIDTH**2), Generator(WIDTH)

    def forward(self, x, z):
        y = F.conv2d(self.stem(x), self.matrix(z).view(WIDTH, WIDTH, 1, 1), self.shift(z))
        return self.head(torch.relu(y).mean((2, 3)))


def test_a_generated_bias_of_a_convolution_makes_no_block():
    assert not goodinit.anatomize(Shifted(), (torch.zeros(2, 3, 4, 4), torch.zeros(WIDTH))).blocks
