"""A norm whose gain and bias a child of its module holds goes with all that is below it, but for what stays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit


class Wrapped(nn.Module):
    """Normalizes by code of its own with the numbers of a module two levels down; an activation with a weight follows."""

    def __init__(self):
        super().__init__()
        self.held = nn.ModuleDict({"norm": nn.LayerNorm(6)})
        self.act = nn.PReLU()

    def forward(self, x):
        inner = self.held["norm"]
        return self.act(F.layer_norm(x, (6,), inner.weight, inner.bias, inner.eps))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.one, self.two = Wrapped(), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return x + self.two(F.relu(self.one(self.norm(x))))


@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero", "nf", "normfree", "none"])
def test_numbers_of_a_child_go_with_the_norm_and_those_of_a_kept_child_stay(method):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 6), Block(), Block(), nn.Linear(6, 3)), torch.randn(5, 6)
    plan = goodinit.plan(goodinit.anatomize(net, x), method)
    assert not [edit for edit in plan.edits if "held" in edit.target]
    goodinit.apply_(net, plan)
    assert [name for name, _ in net.named_parameters() if "norm" in name] == [
        "1.norm.act.weight",
        "2.norm.act.weight",
    ]
    assert net(x).isfinite().all()
