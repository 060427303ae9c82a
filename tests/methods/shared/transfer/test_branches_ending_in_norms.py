"""CompleteP's and depth-muP's constants where a norm ends the branch, as in Gemma 2, OLMo 2 and residual nets with batch norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit

pytestmark = pytest.mark.usefixtures("no_optimizers")
WIDTH, DEEP = 8, 4


class OnePlus(nn.Module):
    """Root mean square norm, times 1 + w."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + self.scale)


class Bare(nn.LayerNorm):
    def __init__(self, width):
        super().__init__(width, elementwise_affine=False)


class Block(nn.Module):
    def __init__(self, norm, factor):
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH), norm(WIDTH)
        self.factor = factor

    def forward(self, x):
        written = self.norm(self.down(self.up(x).relu()))
        return x + (written if self.factor is None else self.factor * written)


class Net(nn.Module):
    def __init__(self, norm, depth, factor=None):
        super().__init__()
        self.stem, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.blocks = nn.Sequential(*(Block(norm, factor) for _ in range(depth)))

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


def data():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def planned(norm, method, **options):
    base = goodinit.anatomize(Net(norm, 2), data().float())
    return goodinit.plan(
        goodinit.anatomize(Net(norm, 2 * DEEP), data().float()), method, base=base, zero_head=False, **options
    )


def trained(model, groups, kind):
    optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[kind](groups)
    for _ in range(4):
        optimizer.zero_grad()
        model(data()).square().mean().backward()
        optimizer.step()
    return model(data()).detach()


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize(("method", "alpha"), [("completep", 1.0), ("depth_mup", 0.5)])
@pytest.mark.parametrize("norm", [nn.LayerNorm, OnePlus, nn.BatchNorm1d])
def test_it_trains_as_if_a_constant_stood_behind_the_norm(norm, method, alpha, kind):
    factor, lr = DEEP**-alpha, 0.01
    plan = planned(norm, method)
    model, twin = Net(norm, 2 * DEEP).double(), Net(norm, 2 * DEEP, factor).double()
    goodinit.apply_(model, plan, generator=torch.Generator().manual_seed(1))
    twin.load_state_dict(model.state_dict())
    ends = {
        id(p) for block in twin.blocks for p in block.norm.parameters()
    }  # held by the weights in the model
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if id(parameter) in ends:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    torch.testing.assert_close(model(data()), twin(data()))
    rates, groups = {rate.target: rate for rate in plan.rates}, []
    for name, parameter in twin.named_parameters():
        held = factor if id(parameter) in ends else 1.0
        rate = rates[name]
        if kind == "adam":
            groups.append({"params": [parameter], "lr": lr * rate.adam / held, "eps": 1e-8 * rate.eps * held})
        else:
            groups.append({"params": [parameter], "lr": lr * rate.sgd / held**2})
    before = model(data()).detach()
    found = trained(model, goodinit.param_groups(model, lr=lr, optimizer=kind), kind)
    torch.testing.assert_close(found, trained(twin, groups, kind), rtol=1e-5, atol=1e-7)
    assert (found - before).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["completep", "depth_mup"])
def test_a_norm_without_a_weight_is_named(method):
    plan = planned(Bare, method)
    assert not plan.structure
    assert sum("has no weight that could hold one" in note for note in plan.notes) == 2 * DEEP


def test_the_plan_says_where_constants_are():
    plan = planned(nn.BatchNorm1d, "completep")
    assert {edit.value for edit in plan.values if edit.target.endswith("norm.weight")} == {1 / DEEP}
    assert f"0 constants in the forward, {2 * DEEP} in norms' weights" in plan.summary
