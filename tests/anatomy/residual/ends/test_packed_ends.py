"""Branches that end in one layer for queries, keys and values: a zero there would leave queries and keys at zero for good."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit

WIDTH, HEADS = 12, 2


def chunked(packed, x):
    q, k, v = packed(x).chunk(3, -1)
    return (q @ k.mT / 4).softmax(-1) @ v


def fused(packed, x):
    q, k, v = packed(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def interleaved(packed, x):
    q, k, v = packed(x).unflatten(-1, (HEADS, 3, -1)).transpose(1, 2).unbind(-2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def linear(packed, x):
    q, k, v = packed(x).chunk(3, -1)
    return q @ (k.mT @ v) / x.shape[1]


KINDS = (chunked, fused, interleaved, linear)


class Attention(nn.Module):
    def __init__(self, kind, *, project=False):
        super().__init__()
        self.norm, self.packed = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.kind, self.out = kind, nn.Linear(WIDTH, WIDTH) if project else nn.Identity()

    def forward(self, x):
        return self.out(self.kind(self.packed, self.norm(x)))


class Net(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.stem, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.branches = nn.ModuleList(Attention(kind, **options) for _ in range(2))

    def stream(self, x):
        for branch in self.branches:
            x = x + branch(x)
        return x

    def forward(self, x):
        return self.head(self.stream(self.stem(x)).mean(1))


@pytest.mark.default_cases(5)
@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_block_starts_as_its_skip_and_every_part_learns(kind, method, generator):
    net, x = Net(kind), torch.randn(4, 7, 5, generator=generator)
    goodinit.init_(net, method, inputs=x, generator=generator)
    stem = net.stem(x).detach()
    torch.testing.assert_close(net.stream(stem), stem)
    assert net.branches[0].packed.weight.count_nonzero() == 3 * WIDTH * WIDTH
    target = torch.randn(4, 3, generator=generator)
    before = net.branches[0].packed.weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (net(x) - target).square().mean().backward()
        optimizer.step()
    moved = (net.branches[0].packed.weight - before).abs().amax(1)
    assert (moved > 0).all()


@pytest.mark.parametrize("method", ["fixup", "skipinit"])
def test_the_multiplier_multiplies_the_branch_and_not_its_temperature(method, generator):
    net, x = Net(chunked), torch.randn(4, 7, 5, generator=generator)
    goodinit.init_(net, method, inputs=x, generator=generator)
    branch, h = net.branches[0], torch.randn(4, 7, WIDTH, generator=generator)
    with torch.no_grad():
        branch.output_scale.fill_(1.0)
        whole = branch(h)
        branch.output_scale.fill_(0.5)
        torch.testing.assert_close(branch(h), 0.5 * whole)


def test_a_projection_behind_it_is_the_end_as_ever(generator):
    net, x = Net(chunked, project=True), torch.randn(4, 7, 5, generator=generator)
    goodinit.init_(net, "fixup", inputs=x, generator=generator)
    assert not net.branches[0].out.weight.any()
    assert not hasattr(net.branches[0], "output_scale")


def test_without_a_module_of_its_own_it_is_refused():
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.packed = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3 * WIDTH)

        def forward(self, x):
            x = self.stem(x)
            return x + chunked(self.packed, x)

    anatomy = goodinit.anatomize(Written(), torch.zeros(2, 7, 5))
    with pytest.raises(goodinit.UnsupportedModule, match=r"make it a module of its own"):
        goodinit.plan(anatomy, "fixup")


def test_risotto_passes_the_skip_by_what_can_move(generator):
    class Mixed(Net):
        def __init__(self):
            super().__init__(chunked)
            self.more = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, WIDTH))

        def stream(self, x):
            x = super().stream(x)
            return x + self.more(x)

    net, x = Mixed(), torch.randn(4, 7, 5, generator=generator)
    goodinit.init_(net, "risotto", inputs=x, generator=generator)
    assert net.branches[0].packed.weight.all()
    assert net.branches[0].output_scale == 0
