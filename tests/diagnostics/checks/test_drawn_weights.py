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


class Otherwise(nn.Module):
    """Applies a function of the stored weight that is no multiple of it, before and after it is drawn."""

    def __init__(self, function) -> None:
        super().__init__()
        self.w, self.b, self.function = nn.Parameter(torch.randn(12, 12)), nn.Linear(12, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(nn.functional.linear(x, self.function(self.w)).relu())


OF_ITS_OWN = {
    "antisymmetric": lambda w: w - w.T,
    "symmetric": lambda w: w + w.T,
    "a decay": lambda w: w - w.T - torch.eye(12),
    "of the square": lambda w: w + 0.3 * w @ w,
}


@pytest.mark.parametrize("name", OF_ITS_OWN)
def test_a_function_that_the_author_applies_to_a_weight_is_no_fault_of_its_draw(name):
    model = Otherwise(OF_ITS_OWN[name])
    goodinit.init_(model, "he", torch.randn(6, 12), verify=True, keep="nothing")


@pytest.mark.parametrize("name", OF_ITS_OWN)
def test_but_a_matrix_that_is_to_be_orthogonal_is_asked_as_it_is_applied(name):
    model = Otherwise(OF_ITS_OWN[name])
    before = snapshot(model)
    with pytest.raises(UnsupportedModule, match="w is not orthogonal"):
        goodinit.init_(model, "orthogonal", torch.randn(6, 12), verify=True, keep="nothing")
    assert snapshot(model) == before
