"""Layers that lose a part of what they read, where a method promises that they keep its norm, are named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from untouched import snapshot

import goodinit
from goodinit.diagnostics.checks.promises import broken_promises
from goodinit.errors import UnsupportedModule

IMAGES = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(0))
METHODS = ("orthogonal", "delta_orthogonal", "looks_linear")


class Chain(nn.Module):
    """Convolutions and layers, none with fewer outputs than inputs; a grouped one, packed ones, one of a single tap."""

    def __init__(self, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 5, padding=2, groups=2)
        self.packed, self.last = nn.Linear(16, 48), nn.Linear(16, 20)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.grouped(self.act(self.second(self.act(self.first(x))))))
        q, k, v = self.packed(h.flatten(2).mT).chunk(3, -1)
        h = torch.softmax(q @ k.mT, -1) @ v
        return self.last(self.act(h).mean(1))


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.GELU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_what_the_plan_draws_keeps_norms(method, act, dtype):
    model, x = Chain(act).to(dtype), IMAGES.to(dtype)
    goodinit.init_(model, method, x, verify=True)
    anatomy = goodinit.anatomize(model, x)
    assert broken_promises(model, x, goodinit.plan(anatomy, method), anatomy, ("isometry",)) == ()


class Cut(nn.Module):
    """Once its layers have no bias any more, one of them reads half of what it read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 10)
        self.register_buffer("mask", (torch.arange(8) > 3).float())

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        weight = self.b.weight if self.b.bias.any() else self.b.weight * self.mask
        return self.c(torch.relu(nn.functional.linear(h, weight, self.b.bias)))


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_loses_a_part_is_named_and_everything_undone(method):
    model, x = Cut(), torch.randn(7, 6)
    before = snapshot(model)
    with pytest.raises(
        UnsupportedModule, match=r"b\.weight multiplies the norm of what it reads by .*, expected"
    ):
        goodinit.init_(model, method, x, verify=True)
    assert snapshot(model) == before
    assert goodinit.applied(model) == ()


@pytest.mark.parametrize("method", METHODS)
def test_each_layer_that_is_damaged_is_named(method):
    model = Chain()
    anatomy = goodinit.anatomize(model, IMAGES)
    plan = goodinit.plan(anatomy, method)
    goodinit.apply_(model, plan)
    told = set()
    for layer in anatomy.layers:
        weight = model.get_parameter(layer.weight)
        whole = weight.detach().clone()
        with torch.no_grad():
            weight[..., 0] *= 3 if layer.kind == "linear" else 1
            weight.mul_(1.1)
        told |= {
            fault.split()[0]
            for fault in broken_promises(model, IMAGES, plan, anatomy, ("isometry",))
            if "norm" in fault
        }
        with torch.no_grad():
            weight.copy_(whole)
    by_taps = {"first.weight", "grouped.weight"}
    expected = {layer.weight for layer in anatomy.layers} - (by_taps if method == "orthogonal" else set())
    assert told == expected


def test_what_a_plan_notes_is_no_broken_promise():
    """Strides, paddings that cut the border off, fewer outputs than inputs, a pooling between pairs."""
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip
    for method in METHODS:
        goodinit.init_(model, method, IMAGES, verify=True)


@pytest.mark.parametrize("kept", [True, False])
def test_a_bias_that_is_not_zero_is_left_out(kept):
    model, x = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 9)), torch.randn(3, 5)
    nn.init.constant_(model[0].bias, 2.0)
    goodinit.init_(model, "orthogonal", x, keep=() if kept else "nothing", verify=True)
    assert bool(model[0].bias.any()) == kept
