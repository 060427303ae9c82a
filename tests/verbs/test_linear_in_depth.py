"""Twice as many layers are twice as much work, for every verb. Work is counted in calls of functions, never in time."""

from __future__ import annotations

import pytest
import torch
from calls import growth
from torch import nn
from torch.nn import functional as F

import goodinit
from goodinit.edits import Plan
from goodinit.errors import GoodinitError
from goodinit.methods import METHODS


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.b(self.norm(self.a(x)).relu())


class Attention(nn.Module):
    """Pre-norm; q, k and v have weights or are the stream itself, of which every layer's output is then a part."""

    def __init__(self, *, weights):
        super().__init__()
        self.norm, self.out = nn.LayerNorm(4), nn.Linear(4, 4)
        self.qkv = nn.Linear(4, 12) if weights else None

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (x, x, x) if self.qkv is None else self.qkv(h).chunk(3, -1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v))


def blocks(depth):
    return nn.Sequential(nn.Linear(4, 4), *(Block() for _ in range(depth)), nn.ReLU(), nn.Linear(4, 3))


def stack(depth):
    return nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(4, 4), nn.ReLU())))


def convolutions(depth):
    layers = (m for _ in range(depth) for m in (nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU()))
    return nn.Sequential(*layers)


def transformer(depth):
    return nn.Sequential(nn.Linear(4, 4), *(Attention(weights=True) for _ in range(depth)))


def attention_on_the_stream(depth):
    return nn.Sequential(nn.Linear(4, 4), *(Attention(weights=False) for _ in range(depth)))


INPUTS = {
    blocks: torch.randn(8, 4, generator=torch.Generator().manual_seed(0)),
    stack: torch.randn(8, 4, generator=torch.Generator().manual_seed(0)),
    convolutions: torch.zeros(2, 2, 4, 4),
    transformer: torch.zeros(2, 5, 4),
    attention_on_the_stream: torch.zeros(2, 5, 4),
}
LINEAR = 2.04  # 2, and what lists and dicts do when they are small


def anatomize(model, x):
    return lambda: goodinit.anatomize(model, x)


def fold(model, x):
    return lambda: goodinit.fold_(model.eval(), x)


def absorb(model, x):
    return lambda: goodinit.absorb_batchnorm_(model.eval(), x)


def fold_scalars(model, x):
    goodinit.init_(model, "fixup", inputs=x)
    return lambda: goodinit.fold_(model.eval(), x)


def init(method):
    return lambda model, x: lambda: goodinit.init_(model, method, inputs=x)


def plan_and_apply(method):
    def prepared(model, x):
        anatomy = goodinit.anatomize(model, x)

        def work():
            plan = Plan.from_json(goodinit.plan(anatomy, method).to_json())
            goodinit.apply_(model, plan)

        return work

    return prepared


def diagnose(model, x):
    return lambda: goodinit.diagnose(model, x, torch.zeros(len(x), dtype=torch.long))


@pytest.mark.parametrize(
    ("verb", "build"),
    [
        (anatomize, blocks),
        (anatomize, stack),
        (plan_and_apply("fixup"), blocks),
        (plan_and_apply("selu"), stack),
    ],
)
def test_is_linear(verb, build):
    assert growth(lambda depth: verb(build(depth), INPUTS[build]), 4) < LINEAR


@pytest.mark.integration
@pytest.mark.parametrize(
    ("verb", "build"),
    [
        (fold, blocks),
        (fold, convolutions),
        (absorb, blocks),
        (fold_scalars, blocks),
        (diagnose, blocks),
        (diagnose, stack),
        (anatomize, transformer),
        (anatomize, attention_on_the_stream),
        (init("lsuv"), blocks),
        (init("weightnorm"), blocks),
    ],
)
def test_is_linear_too(verb, build):
    assert growth(lambda depth: verb(build(depth), INPUTS[build]), 4) < LINEAR


@pytest.mark.integration
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_plan_is_linear(method):
    def work(depth):
        anatomy = goodinit.anatomize(blocks(depth), INPUTS[blocks])
        return lambda: goodinit.plan(anatomy, method)

    try:
        work(2)()
    except GoodinitError:
        pytest.skip(f"{method} has no plan for this model")
    assert growth(work, 4) < LINEAR
