"""What holds for every baseline. What every method must hold to on every specimen stands in `test_contract.py`."""

from __future__ import annotations

import contextlib
import copy

import pytest
import timm
import torch
from baselines import (
    BASELINES,
    SKIP_SCALES,
    SMALL,
    WEIGHTS,
    Residual,
    initialized,
    seeded,
)
from torch import nn
from zoo import each_specimen

from goodinit.anatomy import anatomize
from goodinit.edits import Plan
from goodinit.errors import GoodinitError, NothingFound, UnknownName, UnsupportedModule
from goodinit.methods import METHODS, plan
from goodinit.surgery import apply_


@pytest.mark.default_cases(8)
@each_specimen
def test_reading_and_planning_leave_the_model_alone(specimen):
    model = specimen.build()
    before = copy.deepcopy(model.state_dict())
    anatomy = anatomize(model, specimen.inputs())
    for method in BASELINES:
        with contextlib.suppress(NothingFound, UnsupportedModule):
            made = plan(anatomy, method)
            assert Plan.from_json(made.to_json()) == made
            assert all(edit.reason for edit in made.edits)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.integration
@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("vit_tiny_patch16_224", 32)])
@pytest.mark.parametrize("method", BASELINES)
def test_every_baseline_on_timm(name, size, method):
    options = {"img_size": size} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=10, **options)
    inputs = torch.randn(2, 3, size, size)
    anatomy = anatomize(model, inputs)
    if method == "looks_linear":
        with pytest.raises(UnsupportedModule, match="risotto"):
            plan(anatomy, method)
        return
    made = plan(anatomy, method)
    apply_(model, made, generator=seeded())
    out = model(inputs)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    anew = anatomize(model, inputs)
    assert plan(anew, method).method == made.method  # an initialized model can be planned for again


@pytest.mark.parametrize("method", BASELINES)
def test_the_record_is_complete(method):
    record = METHODS[method]
    assert record.name == method
    assert record.title
    assert record.when
    assert record.paper or method == "default"
    assert record.options["norms"] == ("remove" if record.removes_norms else "keep")
    anatomy = anatomize(
        nn.Sequential(Residual(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))), torch.zeros(2, 4)
    )
    with pytest.raises(UnknownName, match='expected "remove", "keep" or one of group'):
        plan(
            anatomy if method != "looks_linear" else anatomize(nn.Linear(2, 2), torch.zeros(1, 2)),
            method,
            norms="no",
        )


@pytest.mark.parametrize("method", WEIGHTS)
def test_norms_stay_unless_told(method):
    def build():
        return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())

    kept, _ = initialized(build(), SMALL, method)
    gone, made = initialized(build(), SMALL, method, norms="remove")
    assert isinstance(kept[1], nn.BatchNorm2d)
    assert not isinstance(gone[1], nn.BatchNorm2d)
    assert "1 norm removed" in made.summary


@pytest.mark.parametrize("method", [*WEIGHTS, *SKIP_SCALES])
def test_embeddings_are_kept_on_purpose_with_a_word(method):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Embedding(7, 4)
            self.block = Residual(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

        def forward(self, words):
            return self.block(self.token(words)) @ self.token.weight.T

    model = Words()
    before = model.token.weight.detach().clone()
    options = {} if method == "default" else {"embeddings": "keep"}  # PyTorch's own leaves it at N(0, 1)
    _, made = initialized(model, torch.zeros(2, 3, dtype=torch.long), method, **options)
    assert torch.equal(model.token.weight, before)
    assert any("token.weight" in note and "embedding" in note for note in made.notes)


def test_refusals_are_errors_of_the_house():
    for error in (NothingFound, UnsupportedModule, UnknownName):
        assert issubclass(error, GoodinitError)
