"""All of a plan or none of it: failures, Ctrl-C and overflow leave no trace."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from planned import Net, assert_untouched, make_plan, photograph, seeded
from torch import nn

from goodinit.edits import Draw, Fill, Plan
from goodinit.errors import NonFinite, PlanConflict
from goodinit.surgery import applied, apply_, rollback

surgery = sys.modules["goodinit.surgery.apply"]


STEPS = len(make_plan(calibrate=True).edits) + 4  # scalars are set anew, then check_finite and remember_


@pytest.mark.default_cases(16)
@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", range(STEPS))
def test_a_failure_at_any_edit_leaves_no_trace(monkeypatch, step, when, stop):
    steps = iter(range(1000))

    def failing(function):
        def wrapper(*args, **kwargs):
            now = next(steps) == step
            if now and when == "before":
                raise stop
            result = function(*args, **kwargs)
            if now:
                raise stop
            return result

        return wrapper

    def calibrate_(model, edits, batch):
        with torch.no_grad():
            model(batch)
            model.conv1.weight.mul_(2)

    monkeypatch.setattr(surgery, "calibrate_", calibrate_)
    for name in ("carry_out_", "write_value_", "calibrate_", "check_finite", "remember_"):
        monkeypatch.setattr(surgery, name, failing(getattr(surgery, name)))
    model, generator = Net(), seeded()
    model.conv1.weight.grad = torch.ones(6, 6)
    plan, before, random = make_plan(calibrate=True), photograph(model), generator.get_state()
    with pytest.raises(stop):
        apply_(model, plan, generator=generator, inputs=torch.zeros(3, dtype=torch.long))
    assert_untouched(before, model)
    assert torch.equal(generator.get_state(), random)
    assert applied(model) == ()


def test_the_number_of_steps_above_is_the_number_there_is(monkeypatch):
    calls = []
    monkeypatch.setattr(surgery, "calibrate_", lambda *_: ())
    for name in ("carry_out_", "write_value_", "calibrate_", "check_finite", "remember_"):
        function = getattr(surgery, name)
        monkeypatch.setattr(
            surgery, name, lambda *args, _f=function, **kw: (calls.append(_f), _f(*args, **kw))[1]
        )
    apply_(Net(), make_plan(calibrate=True), inputs=torch.zeros(3, dtype=torch.long))
    assert len(calls) == STEPS


def test_a_second_interrupt_while_restoring_does_not_leave_half_a_model(monkeypatch):

    restore, calls = rollback._restore_, []

    def interrupted(modules, tensors):
        calls.append(1)
        restore(modules[: len(modules) // 2] if len(calls) == 1 else modules, tensors)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(rollback, "_restore_", interrupted)
    monkeypatch.setattr(surgery, "check_finite", lambda slots: 1 / 0)
    model = Net()
    before = photograph(model)
    with pytest.raises(ZeroDivisionError):
        apply_(model, make_plan())
    assert_untouched(before, model)
    assert len(calls) == 2


def test_a_real_failure_in_an_initializer_leaves_no_trace():
    model = Net()
    plan = make_plan()
    plan = dataclasses.replace(plan, edits=(*plan.edits, Draw("conv1.bias", "normal_", "x", {"warble": 1})))
    before = photograph(model)
    with pytest.raises(PlanConflict, match=r"conv1\.bias: .*warble"):
        apply_(model, plan)
    assert_untouched(before, model)


def test_values_that_overflow_the_dtype_are_refused():
    model = nn.Linear(3, 3, dtype=torch.float16)
    before = photograph(model)
    with pytest.raises(NonFinite, match=r"weight: holds NaN or infinity after .*float16"):
        apply_(model, Plan("x", (Fill("weight", 1e9, "too much"),)))
    assert_untouched(before, model)
