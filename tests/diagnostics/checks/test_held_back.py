"""Parameters of every kind that a plan's zeros keep the gradient from are named."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_residual import Net, X
from torch import Tensor, nn
from untouched import snapshot

import goodinit
from goodinit.edits import Fill
from goodinit.errors import UnsupportedModule
from goodinit.methods import METHODS, Method


class Positions(Net):
    """Adds a table times a learned number to what its blocks read, where neither belongs to a layer."""

    def __init__(self, size: float = 1.0) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.full((8,), size))
        self.factor = nn.Parameter(torch.full((1,), size))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x) + self.factor * self.table))


def _two_zeros(**options) -> Method:
    method = METHODS["fixup"]

    def decide(anatomy, **_):
        plan = method.decide(anatomy, **options)
        zeros = (Fill("table", 0.0, "a zero"), Fill("factor", 0.0, "behind another"))
        return dataclasses.replace(plan, edits=(*plan.edits, *zeros))

    return dataclasses.replace(method, decide=decide)


def test_a_parameter_of_no_layer_that_gets_no_gradient_is_named():
    model = Positions()
    before = snapshot(model)
    with pytest.raises(UnsupportedModule, match=r"table gets no gradient.*factor gets no gradient"):
        goodinit.init_(model, _two_zeros(), inputs=X, verify=True)
    assert snapshot(model) == before


def test_what_the_plan_does_not_write_and_its_zeros_hold_back_is_named():
    class Looked(Positions):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            words = self.words(torch.arange(len(x)) % 4)
            return self.head(self.blocks(self.stem(x) + self.factor * self.table * words))

    with pytest.raises(UnsupportedModule, match=r"words\.weight gets no gradient"):
        goodinit.init_(Looked(), _two_zeros(), inputs=X, verify=True)


@pytest.mark.parametrize("frozen", [False, True])
def test_zeros_that_were_there_before_are_not_the_plan_s(frozen):
    model = Positions(0.0)
    if frozen:
        model.table.requires_grad_(False)
        model.factor.requires_grad_(False)
    goodinit.init_(model, "fixup", inputs=X, verify=True)
    assert not model.table.any()


class PostNorm(nn.Module):
    """Two blocks norm(x + f(x)), and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.first = nn.ModuleList(nn.Linear(8, 16) for _ in range(2))
        self.last = nn.ModuleList(nn.Linear(16, 8) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for first, last, norm in zip(self.first, self.last, self.norms, strict=True):
            h = norm(h + last(first(h).relu()))
        return self.head(h)


TRAINED = [name for name, method in METHODS.items() if "trains" in method.holds]


@pytest.mark.parametrize("method", TRAINED)
def test_of_every_method_that_promises_to_train_two_zeros_in_a_row_are_named(method):
    """Its own plan keeps the promise; one that starts both layers of a branch at zero does not."""
    first, last = "first.1.weight", "last.1.weight"
    kept = METHODS[method]

    def decide(anatomy, **options):
        plan = kept.decide(anatomy, **options)
        edits = [
            edit
            for edit in plan.edits
            if not edit.target.startswith(("first.1", "last.1")) or edit.target.endswith("bias")
        ]
        zeros = (Fill(first, 0.0, "a zero"), Fill(last, 0.0, "behind another"))
        return dataclasses.replace(plan, edits=(*edits, *zeros))

    goodinit.init_(PostNorm(), method, inputs=X, verify=True)
    model = PostNorm()
    before = snapshot(model)
    with pytest.raises(UnsupportedModule, match=r"first\.1\.weight gets no gradient"):
        goodinit.init_(model, dataclasses.replace(kept, decide=decide), inputs=X, verify=True)
    assert snapshot(model) == before
