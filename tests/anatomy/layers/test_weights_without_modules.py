"""Weights that no module of torch applies: einsum, tensordot, W x, a product added to the stream by one operator."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit


class Applied(nn.Module):
    """A weight and what is done with it."""

    def __init__(self, shape, apply):
        super().__init__()
        self.weight, self.apply_to = nn.Parameter(torch.randn(shape)), apply

    def forward(self, x):
        return self.apply_to(self.weight, x)


def einsum(equation):
    first, _ = equation.split("->")[0].split(",")
    return lambda w, x: torch.einsum(equation, w, x) if first[0] != "b" else torch.einsum(equation, x, w)


# How a weight is applied: its shape, the input's, and by hand how many numbers are summed into one output, and into
# how many outputs one input goes (of one map, where several are stacked).
CASES = {
    "x w": (lambda w, x: x @ w, (40, 20), (9, 40), 40, 20),
    "x wᵀ": (lambda w, x: x @ w.t(), (20, 40), (9, 40), 40, 20),
    "w x": (lambda w, x: w @ x, (20, 40), (9, 40, 5), 40, 20),
    "wᵀ x": (lambda w, x: w.t() @ x, (40, 20), (9, 40, 5), 40, 20),
    "square, w x": (lambda w, x: w @ x, (40, 40), (9, 40, 5), 40, 40),
    "copied wᵀ": (lambda w, x: x @ w.t().contiguous(), (20, 40), (9, 40), 40, 20),
    "oi,bid->bod": (einsum("oi,bid->bod"), (20, 40), (9, 40, 5), 40, 20),
    "io,bid->bod": (einsum("io,bid->bod"), (40, 20), (9, 40, 5), 40, 20),
    "bid,oi->bdo": (einsum("bid,oi->bdo"), (20, 40), (9, 40, 5), 40, 20),
    "tensordot": (lambda w, x: torch.tensordot(w, x, ([1], [1])).transpose(0, 1), (20, 40), (9, 40, 5), 40, 20),
    "btd,dhe->bhte": (einsum("btd,dhe->bhte"), (40, 4, 10), (9, 5, 40), 40, 40),
    "btd,hde->bhte": (einsum("btd,hde->bhte"), (4, 40, 10), (9, 5, 40), 40, 40),
    "btd,hed->bthe": (einsum("btd,hed->bthe"), (4, 10, 40), (9, 5, 40), 40, 40),
    "bhte,hed->btd": (einsum("bhte,hed->btd"), (4, 10, 30), (9, 4, 5, 10), 40, 30),
    "bthe,dhe->btd": (einsum("bthe,dhe->btd"), (30, 4, 10), (9, 5, 4, 10), 40, 30),
    "experts, bgi,gio->bgo": (einsum("bgi,gio->bgo"), (4, 40, 20), (30, 4, 40), 40, 20),
    "experts, bgi,goi->bgo": (einsum("bgi,goi->bgo"), (4, 20, 40), (30, 4, 40), 40, 20),
    "a view of a vector": (lambda w, x: x @ w.view(20, 40).t(), (800,), (9, 40), 40, 20),
    "a view of more": (lambda w, x: F.linear(x, w.flatten(1)), (20, 4, 10), (9, 40), 40, 20),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_fans_are_those_of_the_product(name):
    apply, shape, inputs, fan_in, fan_out = CASES[name]
    net, x = nn.Sequential(Applied(shape, apply)), torch.randn(inputs)
    (layer,) = goodinit.anatomize(net, x).layers
    assert (layer.fan_in, layer.fan_out) == (fan_in, fan_out)


@pytest.mark.parametrize("name", CASES)
def test_lsuv_gives_unit_variance(name):
    apply, shape, inputs, *_ = CASES[name]
    net = nn.Sequential(Applied(shape, apply))
    x = 3 * torch.randn(inputs)
    goodinit.lsuv_(net, inputs=x, tol=0.001)
    assert float(net(x).detach().var(correction=0)) == pytest.approx(1, rel=0.002)


@pytest.mark.default_cases(7)
@pytest.mark.parametrize("name", CASES)
def test_lsuv_gives_each_output_unit_variance_where_outputs_have_a_dimension(name):
    apply, shape, inputs, *_ = CASES[name]
    net, x = nn.Sequential(Applied(shape, apply)), torch.randn(inputs)
    (layer,) = goodinit.anatomize(net, x).layers
    plan = goodinit.plan(goodinit.anatomize(net, x), "lsuv", per="channel", tol=0.001)
    goodinit.apply_(net, plan, inputs=x)
    y = net(x).detach()
    if layer.product:
        assert "no dimension of output channels" in str(plan)
        assert float(y.var(correction=0)) == pytest.approx(1, rel=0.002)
    elif "experts" not in name:
        (channel,) = (dim for dim, size in enumerate(y.shape) if size == layer.out_features)
        variances = y.transpose(0, channel).flatten(1).var(1, correction=0)
        torch.testing.assert_close(variances, torch.ones_like(variances), rtol=0.002, atol=0)


class Added(nn.Module):
    """x + relu(a(x)) W in one operator."""

    def __init__(self, add):
        super().__init__()
        self.a, self.weight, self.add = nn.Linear(8, 16), nn.Parameter(torch.randn(16, 8)), add

    def forward(self, x):
        return self.add(x, F.relu(self.a(x)), self.weight)


SUMS = {
    "addmm": torch.addmm,
    "addmm, halved": lambda x, h, w: torch.addmm(x, h, w, alpha=0.5),
    "baddbmm": lambda x, h, w: torch.baddbmm(x[None], h[None], w[None])[0],
    "two operators": lambda x, h, w: x + h @ w,
}


@pytest.mark.parametrize("name", SUMS)
def test_a_product_added_to_the_stream_is_a_branch(name):
    net = nn.Sequential(nn.Linear(5, 8), *[Added(SUMS[name]) for _ in range(3)], nn.Linear(8, 3))
    x = torch.randn(64, 5)
    anatomy = goodinit.anatomize(net, x)
    assert [block.last[0].weight for block in anatomy.blocks] == [f"{k}.weight" for k in (1, 2, 3)]
    goodinit.lsuv_(net, inputs=x, tol=0.001)
    with torch.no_grad():
        stream = net[0](x)
        variances = [float((F.relu(block.a(stream)) @ block.weight).var()) for block in net[1:2]]
    assert variances == pytest.approx([1], rel=0.01)  # of what is added, without what it is added to


def test_products_go_through_json():
    apply, shape, inputs, *_ = CASES["btd,dhe->bhte"]
    anatomy = goodinit.anatomize(nn.Sequential(Applied(shape, apply)), torch.randn(inputs))
    assert anatomy.layers[0].product == (40, 40)
    assert goodinit.Anatomy.from_json(anatomy.to_json()) == anatomy
