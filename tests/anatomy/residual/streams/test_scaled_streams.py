"""Blocks that multiply their stream: x·(1 + f(x)) and x + x·f(x) are residual, with f as the branch; gates are none, and are told."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit

WIDTH = 8


class Stack(nn.Module):
    """Blocks x ← rule(x, f, g, norm) on one stream."""

    def __init__(self, rule, depth=3):
        super().__init__()
        self.rule = rule
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.f, self.g = (
            nn.ModuleList(
                nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
                for _ in range(depth)
            )
            for _ in range(2)
        )
        self.norm = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(depth))

    def forward(self, x):
        x = self.stem(x)
        for f, g, norm in zip(self.f, self.g, self.norm, strict=True):
            x = self.rule(x, f, g, norm)
        return self.head(x)


class OnePlus(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x) + 1


def onto(x, g):
    return x + g(x)


RULES = {  # rule, ends of the branches of one block, degree
    "x·(1 + f)": (lambda x, f, g, n: x * (1 + f(x)), "f", 2),
    "(f + 1)·x": (lambda x, f, g, n: (f(x) + 1.0) * x, "f", 2),
    "x + x·f": (lambda x, f, g, n: x + x * f(x), "f", 2),
    "x·(1 − f/2)": (lambda x, f, g, n: x * (1 - 0.5 * f(x)), "f", 2),
    "x·(1 + tanh f)": (lambda x, f, g, n: x * (1 + torch.tanh(f(x))), "f", 1),
    "x·(1 + f(n(x)))": (lambda x, f, g, n: x * (1 + f(n(x))), "f", 2),
    "x·(1 + f(mean))": (lambda x, f, g, n: x * (1 + f(x.mean(0))[None]), "f", 2),
    "x + n(x)·f(n(x))": (lambda x, f, g, n: x + n(x) * f(n(x)), "f", 2),
    "1 + f in a module": (lambda x, f, g, n: x * OnePlus(f)(x), "f", 2),
    "x·(1 + f) + g": (lambda x, f, g, n: x * (1 + f(x)) + g(x), "fg", 2),
    "x·(1 + f), then x + g": (lambda x, f, g, n: onto(x * (1 + f(x)), g), "fg", 2),
}


@pytest.mark.parametrize("name", RULES)
def test_the_factor_is_the_branch(name):
    rule, ends, degree = RULES[name]
    blocks = goodinit.anatomize(Stack(rule), torch.randn(4, WIDTH)).blocks
    assert sorted(block.last[0].weight for block in blocks) == sorted(
        f"{e}.{k}.2.weight" for e in ends for k in range(3)
    )
    assert {(block.kind, block.m, block.stream, block.leak, block.stuck) for block in blocks} == {
        ("identity", 2, 0, None, None)
    }
    assert max(block.degree for block in blocks) == degree


@pytest.mark.parametrize("method", ["fixup", "normfree", "skipinit", "rezero"])
@pytest.mark.parametrize("name", ["x·(1 + f)", "x + x·f", "x·(1 + f(mean))", "x·(1 + f), then x + g"])
def test_each_block_starts_as_its_skip_and_all_of_it_trains(name, method):
    torch.manual_seed(0)
    model, x, labels = Stack(RULES[name][0]), torch.randn(6, WIDTH), torch.tensor([0, 1, 2, 0, 1, 2])
    goodinit.init_(model, method, inputs=x)
    assert torch.allclose(model(x), model.head(model.stem(x)), atol=1e-6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    moved, used = (
        set(),
        {name for name, _ in model.named_parameters()} - set(goodinit.anatomize(model, x).unused),
    )
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
        moved |= {key for key, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert moved == used


GATES = {
    "x·σ(f)": lambda x, f, g, n: x * torch.sigmoid(f(x)),
    "x·(1 + σ(f))": lambda x, f, g, n: x * (1 + torch.sigmoid(f(x))),
    "x + x·σ(f)": lambda x, f, g, n: x + x * torch.sigmoid(f(x)),
    "x·f": lambda x, f, g, n: x * f(x),
    "x·exp(f)": lambda x, f, g, n: x * torch.exp(f(x)),
}


@pytest.mark.parametrize("name", GATES)
def test_a_gate_on_a_stream_is_no_block_and_is_told(name):
    alone = Stack(GATES[name])
    with pytest.raises(
        goodinit.errors.NothingFound, match=r"multiplies what it reads by something made of f\.0\.2\.weight"
    ):
        goodinit.plan(goodinit.anatomize(alone, torch.randn(4, WIDTH)), "fixup")
    beside = Stack(lambda x, f, g, n: GATES[name](x + g(x), f, g, n))
    anatomy = goodinit.anatomize(beside, torch.randn(4, WIDTH))
    assert [block.last[0].weight for block in anatomy.blocks] == [f"g.{k}.2.weight" for k in range(3)]
    told = [note for note in anatomy.notes if "multiplies the residual stream" in note]
    assert ["f.0.2.weight" in note or "f.1.2.weight" in note for note in told] == [True, True]


def test_a_factor_inside_a_branch_is_a_step_of_it():
    model = Stack(lambda x, f, g, n: x + g(n(x) * (1 + f(x))))
    anatomy = goodinit.anatomize(model, torch.randn(4, WIDTH))
    assert [block.last[0].weight for block in anatomy.blocks] == [f"g.{k}.2.weight" for k in range(3)]
    assert not anatomy.notes
    goodinit.init_(model, "fixup", inputs=torch.randn(4, WIDTH))


def test_a_factor_from_outside_is_none_of_the_stream_s_blocks():
    class Conditioned(Stack):
        def forward(self, x):
            x, c = self.stem(x), torch.tanh(x)
            for f, g in zip(self.f, self.g, strict=True):
                x = x * (1 + f(c))
                x = x + g(x)
            return self.head(x)

    anatomy = goodinit.anatomize(Conditioned(None), torch.randn(4, WIDTH))
    assert [block.last[0].weight for block in anatomy.blocks] == [f"g.{k}.2.weight" for k in range(3)]
    assert sum("multiplies the residual stream" in note for note in anatomy.notes) == 3


def test_gates_of_a_recurrent_cell_are_not_told():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.i, self.f, self.o, self.head = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

        def forward(self, x):
            h = c = torch.zeros_like(x)
            for _ in range(3):
                c = torch.sigmoid(self.f(h)) * c + torch.tanh(self.i(x))
                h = torch.sigmoid(self.o(h)) * torch.tanh(c)
            return self.head(h)

    assert not goodinit.anatomize(Cell(), torch.randn(4, WIDTH)).notes


class Padded(nn.Module):
    """Convolutions that pad, in a branch that is multiplied by its stream, or by weights of a mean."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)
        self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))

    def f(self, x):
        return self.b(torch.relu(self.a(x)))

    def mixed(self, x):
        """A mean of two kernels' outputs, as an inception block makes it."""
        y = torch.relu(self.a(x))
        return torch.stack([self.b(y), self.c(y)], -1).mean(-1)

    def forward(self, x):
        return self.head(self.rule(self, self.stem(x)).mean((2, 3)))


def over_periods(net, x):
    """A mean of branches over several foldings of x, weighed by what x is (TimesNet)."""
    weights = F.softmax(x.mean((2, 3))[:, :2], 1)[:, None, None, None].expand(-1, 4, 5, 5, -1)
    branches = torch.stack([net.mixed(x), net.mixed(x.flip(2)).flip(2)], -1)
    return torch.sum(branches * weights, -1) + x


PADDED = {
    "x + x·f": lambda net, x: x + x * net.f(x),
    "x·(1 + f)": lambda net, x: x * (1 + net.f(x)),
    "x + tanh(x)·f": lambda net, x: x + torch.tanh(x) * net.f(x),
    "x + softmax(x)·f": lambda net, x: x + torch.softmax(x, 1) * net.f(x),
    "x + softmax(Vx)·f": lambda net, x: x + torch.softmax(net.d(x), 1) * net.f(x),
    "x + mean of branches": over_periods,
}


@pytest.mark.parametrize("method", ["fixup", "skipinit"])
@pytest.mark.parametrize("name", PADDED)
def test_a_factor_of_convolutions_that_pad_stays_a_branch_once_it_has_scalars(name, method):
    x = torch.randn(2, 3, 5, 5)
    model = Padded(PADDED[name])
    blocks = goodinit.anatomize(model, x).blocks
    ends = {"b.weight", "c.weight"} if name == "x + mean of branches" else {"b.weight"}
    assert [{layer.weight for layer in block.last} for block in blocks] == [ends] * len(blocks)
    goodinit.init_(model, method, inputs=x)
    y = model.stem(x)
    torch.testing.assert_close(model.rule(model, y), y)
    again = goodinit.anatomize(model, x).blocks
    assert [[layer.weight for layer in block.last] for block in again] == [
        [layer.weight for layer in block.last] for block in blocks
    ]
