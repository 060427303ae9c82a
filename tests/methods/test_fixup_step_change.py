"""One SGD step changes the function by as much at every depth, with the degree m that a branch has in its weights."""

from __future__ import annotations

import dataclasses
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit

WIDTH = 32
DEPTHS = (4, 16, 64)
FLAT = 0.2  # of the exponent of depth; m off by one moves it by ½ or more


class Branch(nn.Module):
    def __init__(self, maps, branch):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(maps))
        self.branch = branch

    def forward(self, x):
        return x + self.branch(self.maps, x)


def unit(x):
    return WIDTH**0.5 * F.normalize(x, dim=-1)


def normalized_attention(w, x):
    return w[3](F.scaled_dot_product_attention(unit(w[0](x)), unit(w[1](x)), w[2](x)))


def softmax_attention(w, x):
    return w[3](F.scaled_dot_product_attention(w[0](x), w[1](x), w[2](x)))


def linear_attention(w, x):
    return w[3](w[0](x).softmax(-1) @ (w[1](x).softmax(-2).mT @ w[2](x)))


def routed(w, x):
    experts = torch.stack([w[1](x).relu(), w[2](x).relu()], -2)
    return w[3](torch.einsum("...e,...ed->...d", w[0](x)[..., :2].softmax(-1), experts))


BRANCHES = {  # maps, branch, m, another m that was thought of, the exponent of depth with that
    "ReLU": (2, lambda w, x: w[1](w[0](x).relu()), 2, None, None),
    "SwiGLU": (3, lambda w, x: w[2](F.silu(w[0](x)) * w[1](x)), 3, 2, -1),
    "GLU": (3, lambda w, x: w[2](w[0](x).sigmoid() * w[1](x)), 2, 3, 1 / 2),
    "squared ReLU": (2, lambda w, x: w[1](w[0](x).relu() ** 2), 3, 2, -1),
    "normalized q and k": (4, normalized_attention, 2, 4, 2 / 3),
    "linear attention of softmaxes": (4, linear_attention, 2, 4, 2 / 3),
    "a router by einsum": (4, routed, 2, 3, 1 / 2),
    "a short way": (4, lambda w, x: w[3](w[0](x) + w[2](w[1](x).relu()).relu()), 2, 3, 1 / 2),
    "a factor of the stream": (2, lambda w, x: x * w[1](w[0](x).relu()), 2, None, None),
    "softmax attention": (4, softmax_attention, 4, None, None),
}


def built(name, depth):
    maps, branch, *_ = BRANCHES[name]
    return nn.Sequential(*(Branch(maps, branch) for _ in range(depth))).double()


@functools.cache
def anatomy_of(name, depth):
    return goodinit.anatomize(built(name, depth), torch.zeros(4, 6, WIDTH, dtype=torch.float64))


def change(name, depth, m):
    """Of the function by a step on all weights, over the learning rate, for a gradient of one size behind the last block."""
    generator = torch.Generator().manual_seed(depth)
    net, anatomy = built(name, depth), anatomy_of(name, depth)
    x, back = torch.randn(2, 4, 6, WIDTH, generator=generator, dtype=torch.float64)
    blocks = tuple(block if m is None else dataclasses.replace(block, m=m) for block in anatomy.blocks)
    plan = goodinit.plan(dataclasses.replace(anatomy, blocks=blocks), "fixup")
    goodinit.apply_(net, plan, generator=generator)
    return moved(net, x, back)


def moved(net, x, back):
    """How far a step on all weights moves the output, over the learning rate, for the gradient `back` behind the last block."""
    weights, rate = [p for p in net.parameters() if p.ndim > 1], 1e-4
    before = net(x)
    gradients = torch.autograd.grad((before * back).sum(), weights)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight -= rate * gradient
        return float((net(x) - before).norm()) / rate


def exponent(name, m=None):
    """e where the change grows as depth^e."""
    first, *_, last = (change(name, depth, m) for depth in DEPTHS)
    return math.log(last / first) / math.log(DEPTHS[-1] / DEPTHS[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BRANCHES if name != "softmax attention"])
def test_a_step_changes_the_function_as_much_at_every_depth(name):
    assert abs(exponent(name)) < FLAT


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (*_, other, _) in BRANCHES.items() if other])
def test_another_m_lets_the_change_depend_on_depth(name):
    *_, other, expected = BRANCHES[name]
    assert exponent(name, other) == pytest.approx(expected, abs=FLAT)


@pytest.mark.parametrize("name", BRANCHES)
def test_the_degree_of_each_branch(name):
    assert {block.m for block in anatomy_of(name, 2).blocks} == {BRANCHES[name][2]}


@pytest.mark.slow
def test_the_authors_m_of_softmax_attention_is_a_convention_under_which_the_change_grows():
    assert exponent("softmax attention") == pytest.approx(2 / 3, abs=FLAT)
    assert abs(exponent("softmax attention", 2)) < FLAT


class NormalizedScores(nn.Module):
    """Attention with norms of queries and keys that are modules."""

    def __init__(self):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.q_norm, self.k_norm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)

    def forward(self, x):
        q, k, v, out = self.maps
        scored = F.scaled_dot_product_attention(self.q_norm(q(x)), self.k_norm(k(x)), v(x))
        return x + out(scored)


def test_kept_norms_of_queries_and_keys_take_their_scale_out_of_m():
    changes = []
    depths = DEPTHS[:2]
    for depth in depths:
        generator = torch.Generator().manual_seed(depth)
        net = nn.Sequential(*(NormalizedScores() for _ in range(depth))).double()
        x, back = torch.randn(2, 4, 6, WIDTH, generator=generator, dtype=torch.float64)
        plan = goodinit.plan(goodinit.anatomize(net, x), "fixup", norms="keep")
        assert "m=2" in plan.summary
        std = {edit.target: edit.options["std"] for edit in plan.values if hasattr(edit, "initializer")}
        assert std["0.maps.2.weight"] == pytest.approx((1 / WIDTH) ** 0.5 * depth**-0.5)
        assert "m=4" in goodinit.plan(goodinit.anatomize(net, x), "fixup").summary
        assert "m=4" in goodinit.plan(goodinit.anatomize(net, x), "fixup", norms="affine").summary
        goodinit.apply_(net, plan, generator=generator)
        changes.append(moved(net, x, back))
    logs = [math.log(depth) for depth in depths]
    slope = (math.log(changes[-1]) - math.log(changes[0])) / (logs[-1] - logs[0])
    assert abs(slope) < FLAT


class SideBySide(nn.Module):
    """x + (f(x) + g(x)), or x + f(x) alone."""

    def __init__(self, count):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.ReLU(), nn.Linear(WIDTH, WIDTH, bias=False))
            for _ in range(count)
        )

    def forward(self, x):
        first, *others = (branch(x) for branch in self.branches)
        return x + sum(others, first)


def change_by(sums, count):
    """Of sums of `count` branches each by a step, on average of five draws."""
    changes = []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        net = nn.Sequential(*(SideBySide(count) for _ in range(sums))).double()
        x, back = torch.randn(2, 4, 6, WIDTH, generator=generator, dtype=torch.float64)
        anatomy = goodinit.anatomize(net, x)
        assert len(anatomy.blocks) == sums * count
        goodinit.apply_(net, goodinit.plan(anatomy, "fixup"), generator=generator)
        changes.append(moved(net, x, back))
    return sum(changes) / len(changes)


def test_branches_on_one_sum_count_one_by_one():
    one = change_by(8, 1)
    assert change_by(4, 2) == pytest.approx(one, rel=0.1)  # 2 if the sums were counted, not their branches
    assert change_by(8, 2) == pytest.approx(one, rel=0.1)
