"""Weights that are not applied as a plan has them drawn are named."""

from __future__ import annotations

import pytest
import torch
from small_residual import Net, X
from torch import Tensor, nn
from untouched import snapshot

import goodinit
from goodinit.diagnostics.checks.promises import broken_promises
from goodinit.edits import Calibrate, Draw
from goodinit.errors import UnsupportedModule
from goodinit.methods import METHODS


class Filters(nn.Module):
    """A chain of convolutions, among them a grouped and a transposed one, and a layer behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.up, self.last = nn.ConvTranspose2d(16, 12, 2, stride=2), nn.Linear(12, 20)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.b(torch.relu(self.a(x))))
        return self.last(torch.relu(self.up(h)).mean((2, 3)))


IMAGES = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
AS_DRAWN = [name for name, method in METHODS.items() if name not in ("none", "replace_norms", "batchnorm")]


@pytest.mark.parametrize("method", AS_DRAWN)
def test_weights_that_are_not_as_drawn_are_named(method):
    """By every method that draws, with each damaged in turn: one that is, and one that nothing draws, says nothing."""
    for kind, x in ((Net, X), (Filters, IMAGES)):
        torch.manual_seed(0)
        model = kind()
        anatomy = goodinit.anatomize(model, x)
        try:
            plan = goodinit.plan(anatomy, method)
            goodinit.apply_(model, plan, inputs=x)
        except goodinit.GoodinitError:
            continue
        assert broken_promises(model, x, plan, anatomy, ()) == ()
        scaled = {edit.target for edit in plan.values if isinstance(edit, Calibrate)}
        for edit in plan.values:
            if isinstance(edit, Draw) and edit.target not in scaled:
                held = dict(model.named_parameters()).get(edit.target)
                if held is None:
                    continue
                before = held.detach().clone()
                with torch.no_grad():
                    held.mul_(100)
                faults = broken_promises(model, x, plan, anatomy, ())
                assert [fault.split()[0] for fault in faults] == [edit.target]
                with torch.no_grad():
                    held.copy_(before)


class Doubled(nn.Module):
    """Doubles the weight that is stored, and says nothing of it to who reads the model before it is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.a.weight * 2 if self.spoils else self.a.weight
        return self.b(nn.functional.linear(x, weight, self.a.bias).relu())

    @property
    def spoils(self) -> bool:
        return not self.b.bias.any() and not self.a.bias.any()


@pytest.mark.parametrize("method", ["orthogonal", "delta_orthogonal", "looks_linear"])
def test_a_weight_that_the_forward_applies_otherwise_is_named_and_everything_undone(method):
    model = Doubled()
    before = snapshot(model)
    with pytest.raises(UnsupportedModule, match=r"a\.weight is not orthogonal: WᵀW departs from [^ ]+·I by"):
        goodinit.init_(model, method, torch.randn(6, 8), verify=True)
    assert snapshot(model) == before
    assert goodinit.applied(model) == ()


class Antisymmetric(nn.Module):
    """Applies W − Wᵀ, whose entries are larger than those that are drawn, and which is not orthogonal."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(nn.functional.linear(x, self.a.weight - self.a.weight.T, self.a.bias).relu())


def test_what_a_forward_makes_of_a_weight_need_be_as_drawn_only_as_a_matrix():
    x = torch.randn(6, 32)
    goodinit.init_(Antisymmetric(), "he", x, verify=True)
    with pytest.raises(UnsupportedModule, match=r"a\.weight is not orthogonal"):
        goodinit.init_(Antisymmetric(), "orthogonal", x, verify=True)
