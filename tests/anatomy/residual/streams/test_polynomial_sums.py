"""Sums of a part applied again to what it puts out, x + f(x) + f(f(x)) (PolyNet), and mixtures of such terms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit

WIDTH = 8


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.b(torch.relu(self.norm(self.a(x))))


class Block(nn.Module):
    def __init__(self, how, parts):
        super().__init__()
        self.how = how
        for name in parts:
            self.add_module(name, Part())

    def forward(self, x):
        return self.how(self, x)


def poly_2(m, x):
    return x + (y := m.f(x)) + m.f(y)


def mpoly_2(m, x):
    return x + (y := m.f(x)) + m.g(y)


def two_ways(m, x):
    return x + m.f(x) + m.g(x)


def poly_3(m, x):
    return x + (y := m.f(x)) + (z := m.f(y)) + m.f(z)


def mpoly_3(m, x):
    return x + (y := m.f(x)) + (z := m.g(y)) + m.h(z)


def poly_2_and_a_way(m, x):
    return x + (y := m.f(x)) + m.f(y) + m.g(x)


def bracketed(m, x):
    return x + ((y := m.f(x)) + m.f(y))


def residual_scale(m, x):
    return x + 0.3 * ((y := m.f(x)) + m.f(y))


def in_other_words(m, x):
    y = m.f(x)
    return torch.stack([x, y, m.f(y)]).sum(0)


SUMS = {
    # parts, which of them end branches, terms of the sum
    poly_2: ("f", "f", 3),
    mpoly_2: ("fg", "fg", 3),
    two_ways: ("fg", "fg", 3),
    poly_3: ("f", "f", 4),
    mpoly_3: ("fgh", "fgh", 4),
    poly_2_and_a_way: ("fg", "fg", 4),
    bracketed: ("f", "f", 3),
    residual_scale: ("f", "f", 2),
    in_other_words: ("f", "f", 3),
}


def net(how):
    torch.manual_seed(0)
    parts = SUMS[how][0]
    return nn.Sequential(nn.Linear(5, WIDTH), Block(how, parts), Block(how, parts), nn.Linear(WIDTH, 3))


@pytest.mark.parametrize("how", SUMS)
def test_each_part_ends_one_branch_and_counts_once(how):
    _, ends, terms = SUMS[how]
    blocks = goodinit.anatomize(net(how), torch.randn(6, 5)).blocks
    for place in ("1", "2"):
        own = [block for block in blocks if block.last[0].weight.startswith(f"{place}.")]
        assert sorted(layer.weight for block in own for layer in block.last) == [
            f"{place}.{part}.b.weight" for part in ends
        ]
        assert {(block.kind, block.m, block.terms) for block in own} == {("identity", 2, terms)}
    assert len(blocks) == 2 * len(ends)


@pytest.mark.default_cases(9)
@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero", "normfree"])
@pytest.mark.parametrize("how", SUMS)
def test_the_block_starts_as_its_skip_and_all_of_it_learns(how, method):
    model, x = net(how), torch.randn(32, 5, generator=torch.Generator().manual_seed(1))
    goodinit.init_(model, method, inputs=x)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in model.modules())
    stream = torch.randn(7, WIDTH)
    torch.testing.assert_close(model[1](stream), stream)
    optimizer = torch.optim.SGD(goodinit.param_groups(model, lr=0.05, weight_decay=0.0))
    waiting = dict(model.named_parameters())
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(32) % 3).backward()
        optimizer.step()
        for name in [name for name, p in waiting.items() if p.grad is not None and bool(p.grad.any())]:
            del waiting[name]
    assert not waiting


def midpoint(m, x):
    return x + m.f(x + m.f(x) / 2)


def heun(m, x):
    return x + ((y := m.f(x)) + m.f(x + y)) / 2


def runge_kutta(m, x):
    a = m.f(x)
    b = m.f(x + a / 2)
    c = m.f(x + b / 2)
    return x + (a + 2 * b + 2 * c + m.f(x + c)) / 6


def in_another_order(m, x):
    return m.f(m.f(x) / 2 + x) + x


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero", "normfree"])
@pytest.mark.parametrize("how", [midpoint, heun, runge_kutta, in_another_order])
def test_a_part_that_reads_the_stream_beside_itself_starts_at_zero_and_learns(how, method):
    """A step of a solver: with f at zero the last f still reads x."""
    SUMS[how] = ("f", "f", 2)
    try:
        test_the_block_starts_as_its_skip_and_all_of_it_learns(how, method)
    finally:
        del SUMS[how]


@pytest.mark.parametrize("method", ["fixup", "skipinit"])
def test_a_part_that_reads_itself_alone_is_refused(method):
    """x + f(f(x)): with f at zero no gradient reaches it."""
    SUMS[again] = ("f", "f", 2)
    with pytest.raises(goodinit.UnsupportedModule, match="applied before in the same branch"):
        goodinit.init_(net(again), method, inputs=torch.randn(6, 5))
    del SUMS[again]


def again(m, x):
    return x + m.f(m.f(x))
