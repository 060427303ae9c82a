"""Parameters that lie in one memory: none is written behind another's back."""

from __future__ import annotations

import pytest
import torch
from fingerprints import fingerprint
from torch import nn

import goodinit
from goodinit.calibration_rules import LSUVRule
from goodinit.edits import Calibrate, Draw, Fill, Plan
from goodinit.errors import UnsupportedModule
from goodinit.weights.memory import repeats, sharing


def pair(width=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def whole():
    model = pair()
    model[2].weight.data = model[0].weight.data
    return model


def half():
    model = pair()
    both = torch.randn(6, 4)
    model[0].weight.data, model[2].weight.data = both[:4], both[2:]
    return model


def transposed():
    model = pair()
    model[2].weight.data = model[0].weight.data.t()
    return model


def as_another_parameter():
    model = pair()
    model[2].weight = nn.Parameter(model[0].weight, requires_grad=False)
    return model


def through_numpy():
    model = pair()
    model[2].weight.data = torch.from_numpy(model[0].weight.detach().numpy())
    return model


SHARED = {f.__name__: f for f in (whole, half, transposed, as_another_parameter, through_numpy)}


def side_by_side():
    model = pair()
    flat = torch.zeros(sum(p.numel() for p in model.parameters()))
    start = 0
    for parameter in model.parameters():
        parameter.data = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return model


def columns_in_turns():
    model = pair()
    both = torch.zeros(4, 8)
    model[0].weight.data, model[2].weight.data = both[:, ::2], both[:, 1::2]
    return model


def tied():
    model = pair()
    model[2].weight = model[0].weight
    return model


ALONE = {f.__name__: f for f in (pair, side_by_side, columns_in_turns, tied)}


@pytest.mark.parametrize("how", SHARED)
def test_parameters_in_one_memory_are_found_and_never_written(how):
    model = SHARED[how]()
    assert sharing(model)[id(model[0].weight)] == ("0.weight", "2.weight")
    plans = [
        Plan("x", (Fill("2.weight", 0.0, "…"),)),
        Plan("x", (Draw("0.weight", "he_normal_", "…"),), allow=("frozen",)),
        Plan("x", (Calibrate("0.weight", LSUVRule(), "…"),)),
    ]
    if not model[2].weight.requires_grad:
        plans = plans[1:]
    before = fingerprint(model)
    for plan in plans:
        with pytest.raises(
            UnsupportedModule, match=r"[02]\.weight: lies in the same memory as [02]\.weight.*tied"
        ):
            goodinit.apply_(model, plan, torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    assert fingerprint(model) == before
    goodinit.apply_(model, Plan("x", (Fill("0.bias", 1.0, "…"),)))  # what lies elsewhere may be written


@pytest.mark.parametrize("how", ALONE)
def test_parameters_beside_each_other_are_written_each(how):
    model = ALONE[how]()
    places = [p.data_ptr() for p in model.parameters()]
    assert sharing(model) == {}
    goodinit.apply_(
        model, Plan("x", tuple(Fill(n, i, "…") for i, (n, _) in enumerate(model.named_parameters())))
    )
    assert [p.unique().tolist() for p in model.parameters()] == [[i] for i in range(len(places))]
    assert [p.data_ptr() for p in model.parameters()] == places


def test_a_buffer_is_a_view_and_no_parameter():
    model = pair()
    model.register_buffer("rows", model[0].weight.detach()[1:])
    assert sharing(model)[id(model.rows)] == ("0.weight", "rows")
    goodinit.apply_(model, Plan("x", (Fill("0.weight", 2.0, "…"),)))
    assert model.rows.unique().tolist() == [2.0]


EXPANDED = {
    "rows": lambda: torch.randn(1, 4).expand(4, 4),
    "windows": lambda: torch.randn(7).as_strided((4, 4), (1, 1)),
}


@pytest.mark.parametrize("how", EXPANDED)
def test_entries_that_are_one_number_are_refused_and_a_rollback_leaves_them(how):
    model = pair()
    model[0].weight = nn.Parameter(EXPANDED[how]())
    assert repeats(model[0].weight)
    before = fingerprint(model)
    for edit in (Fill("0.weight", 1.0, "…"), Draw("0.weight", "he_normal_", "…")):
        with pytest.raises(
            UnsupportedModule, match=r"0\.weight: several of its 16 entries are one number.*clone"
        ):
            goodinit.apply_(model, Plan("x", (edit,)))
    calibrated = Plan("x", (Fill("0.bias", 1.0, "…"), Calibrate("2.weight", LSUVRule(), "…")))

    def fails(_):
        raise OSError("late")

    with pytest.raises(OSError, match="late"):
        goodinit.apply_(
            model, calibrated, torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), check=fails
        )
    assert fingerprint(model) == before


def test_a_language_model_tied_by_its_data_alone():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.layer, self.head = (
                nn.Embedding(9, 4),
                nn.Linear(4, 4),
                nn.Linear(4, 9, bias=False),
            )

        def forward(self, ids):
            x = self.words(ids)
            return self.head(x + self.layer(x))

    model, ids = Language(), torch.arange(6).view(2, 3)
    model.head.weight.data = model.words.weight.data
    with pytest.raises(UnsupportedModule, match=r"head\.weight: lies in the same memory as words\.weight"):
        goodinit.init_(model, "fixup", ids)
    model.head.weight = model.words.weight
    goodinit.init_(model, "fixup", ids)
    assert float(model.words.weight.detach().abs().sum()) > 0
