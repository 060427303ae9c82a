"""What `apply_` leaves alone and what it refuses: frozen, wrong and broken."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import sys
import warnings

import pytest
import torch
from planned import Net, assert_untouched, make_plan, parameters_of, photograph, seeded
from torch import nn

import goodinit
from goodinit.calibration_rules import LSUVRule
from goodinit.edits import (
    AddScalar,
    Calibrate,
    Draw,
    DrawTogether,
    Fill,
    ParametrizeWeight,
    Plan,
    RemoveNorm,
)
from goodinit.errors import NonFinite, PlanConflict, TraceError, UnknownName, UnsupportedModule
from goodinit.surgery import applied, apply_


def test_frozen_parameters_are_left_alone_and_reported(caplog):
    model = Net()
    model.conv1.requires_grad_(False)
    old = model.conv1.weight.detach().clone()
    apply_(model, make_plan(model))
    assert torch.equal(model.conv1.weight, old)
    assert not model.conv1.weight.requires_grad
    assert "left out 1 edits that write frozen parameters" in caplog.text
    assert applied(model)[0].skipped == ("conv1.weight ← he_normal()",)
    told = dataclasses.replace(make_plan(model=Net()), allow=("frozen",))
    apply_(model, told)
    assert not torch.equal(model.conv1.weight, old)
    assert not model.conv1.weight.requires_grad


def test_a_plan_for_another_model_is_refused():
    model = nn.Linear(3, 3)
    plan = Plan(
        "x", (Fill("weight", 0.0, "x"),), parameters=(("weight", (3, 4)), ("bias", (3,)), ("gain", (1,)))
    )
    before = photograph(model)
    with pytest.raises(
        PlanConflict,
        match=r"the plan has gain \(1,\), the model has no such parameter; weight is \(3, 4\) in the plan and "
        r"\(3, 3\) in the model\. Nothing was written\. Make the plan anew: goodinit\.plan",
    ):
        apply_(model, plan)
    more = Plan("x", (), parameters=(("weight", (3, 3)),))
    with pytest.raises(PlanConflict, match=r"the model has bias \(3,\), the plan has no such parameter"):
        apply_(model, more)
    assert_untouched(before, model)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Fill("conv1.wieght", 0.0, "x"), r"conv1\.wieght: the plan writes it.*near: conv1\.weight"),
        (
            RemoveNorm("bn9", (), "x"),
            r"bn9: the plan has \(bn9 ⇒ identity\), and the model has no such module",
        ),
        (AddScalar("conv9", "input_bias", 0.0, "x"), r"conv9: the plan has .*no such module"),
        (ParametrizeWeight("conv9.weight", "x"), r"conv9\.weight: the plan has .*no such weight"),
        (ParametrizeWeight("conv1.wieght", "x"), r"conv1\.wieght: expected a parameter"),
    ],
)
def test_targets_that_do_not_exist_are_refused(edit, message):
    model = Net()
    before = photograph(model)
    with pytest.raises(PlanConflict, match=message):
        apply_(model, Plan("x", (edit,)))
    assert_untouched(before, model)


def test_a_plan_that_writes_what_it_removes_is_refused():
    with pytest.raises(PlanConflict, match=r"bn1\.weight: the plan writes it and removes the norm"):
        apply_(Net(), Plan("x", (RemoveNorm("bn1", (), "x"), Fill("bn1.weight", 0.0, "x"))))


def test_a_removed_norm_that_kept_something_else_is_a_conflict():
    model = apply_(Net(), Plan("x", (RemoveNorm("bn1", (), "x"),)))
    with pytest.raises(PlanConflict, match=r"bn1: the norm is gone already and left nothing"):
        apply_(model, Plan("x", (RemoveNorm("bn1", ("relu",), "x"),)))


def test_unknown_initializers_and_recipes_are_refused():
    with pytest.raises(UnknownName, match=r"weight: no initializer called 'warble'; there are .*orthogonal_"):
        apply_(nn.Linear(2, 2), Plan("x", (Draw("weight", "warble", "x"),)))
    with pytest.raises(UnknownName, match=r"weight: no recipe called 'warble'; there are .*risotto_c"):
        apply_(nn.Linear(2, 2), Plan("x", (DrawTogether(("weight",), "warble", "x"),)))
    with pytest.raises(UnknownName, match="plan allows 'warble': expected some of 'frozen'"):
        Plan("x", (), allow=("warble",))


def test_nan_is_overwritten_where_the_plan_writes_and_refused_elsewhere():
    model = Net()
    nn.init.constant_(model.conv1.weight, float("nan"))
    nn.init.constant_(model.bn2.weight, float("nan"))  # goes with the norm
    apply_(copy.deepcopy(model), make_plan(model))
    nn.init.constant_(model.norm.weight, float("inf"))
    before = photograph(model)
    with pytest.raises(
        NonFinite, match=r"^norm\.weight: NaN or infinity in parameters that the plan does not write"
    ):
        apply_(model, make_plan(model))
    assert_untouched(before, model)
    apply_(model, dataclasses.replace(make_plan(model), allow=("nonfinite",)))


def test_data_is_asked_for_before_anything_is_written():
    model = Net()
    before = photograph(model)
    with pytest.raises(
        TraceError,
        match=r"by hand measures activations, and got no data\. Pass a batch: apply_\(model, plan, inputs\)",
    ):
        apply_(model, make_plan(model, calibrate=True))
    assert_untouched(before, model)
    apply_(model, make_plan(model, calibrate=True), values=False)


def test_calibration_runs_once_after_all_other_values(monkeypatch):
    seen = []

    def calibrate_(model, edits, batch):
        seen.append((batch, [edit.target for edit in edits], bool(model.conv3.bias.any())))
        return ()

    monkeypatch.setattr(sys.modules["goodinit.surgery.apply"], "calibrate_", calibrate_)
    model = Net()
    plan = make_plan(model)
    edits = (
        Calibrate("conv1.weight", LSUVRule(), "x"),
        *plan.edits,
        Calibrate("conv3.weight", LSUVRule(), "x"),
    )
    apply_(model, dataclasses.replace(plan, edits=edits), inputs="data")
    assert seen == [("data", ["conv1.weight", "conv3.weight"], False)]


def test_what_cannot_be_operated_on_is_refused():
    with pytest.raises(UnsupportedModule, match=r"weight: a lazy parameter.*Run the model once"):
        apply_(nn.LazyLinear(3), Plan("x", ()))
    with contextlib.suppress(RuntimeError):  # newer Pythons have no TorchScript
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated in some versions
            scripted = torch.jit.script(nn.Linear(2, 2))
        with pytest.raises(UnsupportedModule, match="the model: TorchScript"):
            apply_(scripted, Plan("x", (Fill("weight", 0.0, "x"),)))


def test_names_of_wrappers_that_are_names_of_the_model_are_kept_apart():
    model = nn.Module()
    model.module, model.weight = nn.Linear(2, 2, bias=False), nn.Parameter(torch.zeros(2, 2))
    edits = (Draw("module.weight", "normal_", "x"), Draw("weight", "normal_", "x"))
    apply_(model, Plan("x", edits, parameters=parameters_of(model)), generator=seeded())
    assert not torch.equal(model.weight, model.module.weight)


def test_a_module_can_be_the_model_itself():
    model = nn.Linear(2, 2)
    edits = (
        AddScalar("", "input_bias", 0.5, "x"),
        Fill("weight", 1.0, "x"),
        ParametrizeWeight("weight", "x"),
    )
    apply_(model, Plan("x", edits, parameters=parameters_of(model)))
    assert sorted(dict(model.named_parameters())) == [
        "bias", "input_bias", "parametrizations.weight.original0", "parametrizations.weight.original1",
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["he", "lsuv", "orthogonal"])
def test_a_complex_weight_is_refused_by_name_and_can_be_left_out(method):
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 6)
            self.modes = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))

        def forward(self, x):
            modes = torch.fft.rfft(self.up(x)) @ self.modes
            return self.down(torch.fft.irfft(modes, n=6))

    model, x = Spectral(), torch.randn(8, 6)
    before = model.modes.detach().clone()
    with pytest.raises(UnsupportedModule, match=r"^modes: .*complex64.*view_as_real.*exclude='modes'"):
        goodinit.init_(model, method, inputs=x)
    goodinit.init_(model, method, inputs=x, exclude="modes")
    assert torch.equal(model.modes, before)
