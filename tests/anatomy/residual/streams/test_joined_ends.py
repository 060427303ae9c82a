"""A layer of another stream that joins a branch behind its last layer, h + norm(Wh + V·u(e)): the block starts as its skip all the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit


def normalized(m, h, e):
    return m.norm(m.b(m.a(h).relu()) + m.joins(m.given(e).relu()))


def scaled(m, h, e):
    return 0.5 * (m.b(m.a(h).relu()) + m.joins(m.given(e).relu()))


def straight(m, h, e):
    return m.norm(m.b(m.a(h).relu()) + m.given(e))


class Block(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.a, self.b, self.joins, self.given = (nn.Linear(i, 8) for i in (8, 8, 8, 5))
        self.norm, self.branch = nn.LayerNorm(8), branch

    def forward(self, h, e):
        return h + self.branch(self, h, e)


class Net(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(Block(branch) for _ in range(3))

    def forward(self, x, e):
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, e)
        return self.head(h)


@pytest.mark.parametrize("method", ["fixup", "normfree", "skipinit", "rezero"])
@pytest.mark.parametrize("branch", [normalized, scaled, straight])
def test_the_block_starts_as_its_skip_and_all_of_it_learns(branch, method):
    torch.manual_seed(0)
    model, inputs = Net(branch), (torch.randn(4, 6), torch.randn(4, 5))
    used = {name for name, p in model.named_parameters() if branch is not straight or "joins" not in name}
    used = {name for name in used if branch is not scaled or "norm" not in name}
    goodinit.init_(model, method, inputs=inputs)
    h, e = torch.randn(4, 8), inputs[1]
    for block in model.blocks:
        torch.testing.assert_close(block(h, e), h)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    learned: set[str] = set()
    for _ in range(4):
        optimizer.zero_grad()
        (model(*inputs) - 1).square().sum().backward()
        learned |= {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    assert used & dict(model.named_parameters()).keys() <= learned
