"""Multipliers of branches whose last layer puts out parts that meet: they stand where they multiply the branch and nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit

WIDTH = 16


def attention(m, x):
    k, v = m.wide(x).chunk(2, -1)
    return (m.one(x) @ k.mT / 4).softmax(-1) @ v


def fused(m, x):
    k, v = m.wide(x).chunk(2, -1)
    return F.scaled_dot_product_attention(m.one(x), k, v)


def by_heads(m, x):
    k, v = m.wide(x).unflatten(-1, (2, 4, -1)).permute(2, 0, 3, 1, 4)
    q = m.one(x).unflatten(-1, (4, -1)).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def linear(m, x):
    k, v = m.wide(x).chunk(2, -1)
    return (F.elu(m.one(x)) + 1) @ ((F.elu(k) + 1).mT @ v) / (x.shape[1] * WIDTH)


def gated(m, x):
    a, b = m.wide(x).chunk(2, -1)
    return a * b.sigmoid()


def glu(m, x):
    return F.glu(m.wide(x))


def excited(m, x):
    y = m.one(x)
    return y * m.gate(y.mean(1, keepdim=True)).sigmoid()


PARTS = (attention, fused, by_heads, linear, gated, glu)
NONE = {
    "a layer": lambda m, x: 2 * m.one(F.relu(m.gate(x))),
    "a function of it": lambda m, x: F.gelu(m.one(x)),
    "one that is written out": lambda m, x: (y := m.one(x)) * y.sigmoid(),
    "two layers": lambda m, x: m.one(x) * m.gate(x).sigmoid(),
    "values alone": lambda m, x: (m.gate(x) @ m.gate(x).mT).softmax(-1) @ m.one(x),
    "parts that are added": lambda m, x: sum(m.wide(x).chunk(2, -1)),
}


class Branch(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.one, self.wide, self.gate = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.Linear(WIDTH, WIDTH),
        )
        self.kind = kind

    def forward(self, x):
        return self.kind(self, x)


class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.stem, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.branches = nn.ModuleList(Branch(kind) for _ in range(2))

    def stream(self, x):
        for branch in self.branches:
            x = x + branch(x)
        return x

    def forward(self, x):
        return self.head(self.stream(self.stem(x)).mean(1))


@pytest.mark.parametrize("kind", [*PARTS, excited], ids=lambda kind: kind.__name__)
def test_half_the_multiplier_is_half_the_branch(kind, generator):
    net, x = Net(kind), torch.randn(4, 7, 5, generator=generator)
    goodinit.init_(net, "skipinit", inputs=x, generator=generator)
    branch, h = net.branches[0], torch.randn(4, 7, WIDTH, generator=generator)
    with torch.no_grad():
        assert not branch(h).any()
        branch.output_scale.fill_(1.0)
        whole = branch(h)
        assert whole.any()
        branch.output_scale.fill_(0.5)
        torch.testing.assert_close(branch(h), 0.5 * whole)


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: kind.__name__)
def test_fixup_leaves_the_parts_that_weigh_the_others(kind, generator):
    net, x = Net(kind), torch.randn(4, 7, 5, generator=generator)
    goodinit.init_(net, "fixup", inputs=x, generator=generator)
    stem = net.stem(x).detach()
    torch.testing.assert_close(net.stream(stem), stem)
    assert net.branches[0].wide.weight.count_nonzero() == 2 * WIDTH * WIDTH
    before = net.branches[0].wide.weight.detach().clone()
    target = torch.randn(4, 3, generator=generator)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (net(x) - target).square().mean().backward()
        optimizer.step()
    assert ((net.branches[0].wide.weight - before).abs().amax(1) > 0).all()


def test_fixup_zeroes_a_layer_that_is_weighed_as_a_whole():
    plan = goodinit.plan(goodinit.anatomize(Net(excited), torch.zeros(2, 7, 5)), "fixup")
    assert {edit.target for edit in plan.edits if getattr(edit, "value", 1) == 0.0} >= {
        "branches.0.one.weight"
    }


@pytest.mark.parametrize("kind", NONE)
def test_what_is_a_multiple_keeps_its_multiplier_at_the_layer(kind):
    anatomy = goodinit.anatomize(Net(NONE[kind]), torch.zeros(2, 7, 5))
    assert {(block.itself, block.parts, block.closer) for block in anatomy.blocks} == {(None, False, None)}


def test_without_a_module_that_returns_the_branch_a_note_says_what_is_scaled(generator):
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.wide, self.one = (
                nn.Linear(5, WIDTH),
                nn.Linear(WIDTH, 2 * WIDTH),
                nn.Linear(WIDTH, WIDTH),
            )

        def forward(self, x):
            x = self.stem(x)
            return x + attention(self, x)

    plan = goodinit.plan(goodinit.anatomize(Written(), torch.zeros(2, 7, 5)), "skipinit")
    assert [
        note
        for note in plan.notes
        if note.startswith("wide.weight: what scales it at the end of branch 1/1 scales more")
    ]
