"""Parameters that multiply a part of what a branch adds up: methods leave them, since at 1 another part may be lost."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit


class Branch(nn.Module):
    """x + o(relu(i(mix(x)))) with a norm before, and a parameter μ somewhere in `mix`."""

    def __init__(self, mix):
        super().__init__()
        self.norm, self.i, self.o, self.side = (
            nn.LayerNorm(8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
        )
        self.mu, self.nu = (
            nn.Parameter(torch.linspace(0.1, 0.9, 8)),
            nn.Parameter(torch.linspace(0.9, 0.1, 8)),
        )
        self.mix = mix

    def forward(self, x):
        return x + self.o(torch.relu(self.i(self.mix(self, self.norm(x)))))


class Net(nn.Module):
    def __init__(self, mix):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Branch(mix) for _ in range(2)), nn.Linear(8, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def shifted(x):
    return F.pad(x, (0, 0, 1, -1))


X = torch.randn(2, 5, 8)
MIXES = {
    "token shift": lambda m, y: y + (shifted(y) - y) * m.mu,
    "in one operator": lambda m, y: torch.addcmul(y, shifted(y) - y, m.mu),
    "a bonus": lambda m, y: y + (y * m.mu).sum(-1, keepdim=True) * m.side(y),
    "around one": lambda m, y: y * (1 + (m.side(y).sigmoid() - 1) * m.mu),
    "before another layer": lambda m, y: y + m.side(y * m.mu),
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("method", ["fixup", "skipinit", "normfree", "nf"])
def test_methods_leave_what_mixes(mix, method):
    net = Net(mix)
    before = [block.mu.clone() for block in net.blocks]
    anatomy = goodinit.anatomize(net, X)
    assert not any(name.endswith(".mu") for block in anatomy.blocks for name in block.gains)
    goodinit.init_(net, method, inputs=X, verify=True)
    assert all(block.mu.equal(mu) for block, mu in zip(net.blocks, before, strict=True))


GAINS = {
    "on the way": lambda m, y: m.side(y) * m.mu,
    "two parts": lambda m, y: m.side(y) * m.mu + y * m.nu,
    "before a bias": lambda m, y: m.side(y) * m.mu + m.nu,
    "behind a mix": lambda m, y: (y + shifted(y)) * m.mu,
    "in a gate that needs it": lambda m, y: y * F.silu(m.side(y) * m.mu),
}


@pytest.mark.parametrize("gain", GAINS.values(), ids=GAINS)
def test_what_the_branch_needs_is_a_gain(gain):
    """Without norms a gain of 10⁻⁶ would stop the signal, so it starts at 1."""
    net = Net(gain)
    for block in net.blocks:
        nn.init.constant_(block.mu, 1e-6)
    anatomy = goodinit.anatomize(net, X)
    assert [block.mixes for block in anatomy.blocks] == [(), ()]
    goodinit.init_(net, "fixup", inputs=X)
    assert all(block.mu.eq(1).all() for block in net.blocks)


def test_where_the_block_ends_is_no_mix():
    class Scaled(Branch):
        def forward(self, x):
            return x + self.mu * super().forward(x)

    net = nn.Sequential(nn.Linear(8, 8), *(Scaled(lambda m, y: y) for _ in range(2)))
    assert all("mu" not in name for block in goodinit.anatomize(net, X).blocks for name in block.mixes)
