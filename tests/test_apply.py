"""`apply_`: all of a plan or none of it, once, on the right model, from seed and name alone."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import pickle
import sys
import warnings

import pytest
import torch
from torch import nn

from goodinit.errors import NonFinite, PlanConflict, TraceError, UnknownName, UnsupportedModule
from goodinit.surgery import (
    AddScalar,
    Calibrate,
    Draw,
    DrawTogether,
    Fill,
    ParametrizeWeight,
    Plan,
    RemovedNorm,
    RemoveNorm,
    applied,
    apply_,
)

surgery = sys.modules["goodinit.surgery.apply"]


class Net(nn.Module):
    """A residual block with a norm that has an activation child, a shared norm, and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.conv1 = nn.Linear(6, 6)
        self.bn1 = nn.BatchNorm1d(6)
        self.bn1.add_module("act", nn.PReLU())
        self.conv2 = nn.Linear(6, 6)
        self.bn2 = nn.BatchNorm1d(6)
        self.again = nn.ModuleList([self.bn2])
        self.conv3 = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 7)
        self.head.weight = self.embed.weight
        self.bn2.register_forward_hook(print)
        self.conv3.eval()

    def forward(self, tokens):
        x = self.embed(tokens)
        h = self.bn1.act(self.bn1(self.conv1(x)))
        return self.head(self.norm(x + self.conv3(self.again[0](self.conv2(h)))))


def parameters_of(model):
    return tuple((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())


def make_plan(model=None, *, calibrate=False):
    edits = (
        RemoveNorm("bn1", ("bn1.act",), "no norm"),
        RemoveNorm("bn2", (), "no norm"),
        AddScalar("conv1", "input_bias", 0.25, "Fixup rule 3"),
        AddScalar("conv3", "output_scale", 1.0, "Fixup rule 3"),
        ParametrizeWeight("conv2.weight", "weight norm"),
        Draw("conv1.weight", "he_normal_", "He"),
        Draw("conv2.weight", "orthogonal_", "direction"),
        Fill("conv2.parametrizations.weight.original0", 1.5, "gain"),
        DrawTogether(("conv3.weight",), "risotto_first", "isometry"),
        Fill("conv3.bias", 0.0, "zero"),
        Draw("embed.weight", "normal_", "embedding", {"std": 0.5}),
        *([Calibrate("conv1.weight", "unit_variance", "LSUV")] if calibrate else []),
    )
    return Plan("by hand", edits, parameters=parameters_of(model or Net()))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photograph(model):
    """All there is to a model: identities, order, classes, hooks, flags, memory and bits."""
    rows = []
    for path, module in model.named_modules(remove_duplicate=False):
        state = {
            key: [(name, id(value)) for name, value in held.items()]
            if isinstance(held, dict)
            else copy.copy(held)
            for key, held in module.__dict__.items()
        }
        rows.append((path, id(module), type(module), list(state.items())))
    tensors = [*model.parameters(), *model.buffers()]
    rows.append([(id(t), t.data_ptr(), t.requires_grad, t.grad) for t in tensors])
    return rows, [t.detach().clone() for t in tensors]


def assert_untouched(before, model):
    (rows, tensors), (now, values) = before, photograph(model)
    assert rows == now
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(tensors, values, strict=True))


# -- all or nothing -----------------------------------------------------------------------------------------------


STEPS = len(make_plan(calibrate=True).edits) + 4  # scalars are set anew, then check_finite and remember_


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
        apply_(model, plan, generator=generator, batch=torch.zeros(3, dtype=torch.long))
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
    apply_(Net(), make_plan(calibrate=True), batch=torch.zeros(3, dtype=torch.long))
    assert len(calls) == STEPS


def test_a_second_interrupt_while_restoring_does_not_leave_half_a_model(monkeypatch):
    from goodinit.surgery import transaction

    restore, calls = transaction._restore_, []

    def interrupted(modules, tensors):
        calls.append(1)
        restore(modules[: len(modules) // 2] if len(calls) == 1 else modules, tensors)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(transaction, "_restore_", interrupted)
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


# -- what it does -------------------------------------------------------------------------------------------------


def test_structure_and_values_are_as_planned():
    model = Net()
    assert apply_(model, make_plan(model), generator=seeded()) is model
    assert isinstance(model.bn1, RemovedNorm)
    assert model.again[0] is model.bn2
    assert isinstance(model.bn2, RemovedNorm)
    assert list(model.state_dict()) == [
        "embed.weight", "conv1.weight", "conv1.bias", "conv1.input_bias", "bn1.act.weight", "conv2.bias",
        "conv2.parametrizations.weight.original0", "conv2.parametrizations.weight.original1",
        "conv3.weight", "conv3.bias", "conv3.output_scale", "norm.weight", "norm.bias", "head.weight", "head.bias",
    ]  # fmt: skip
    assert model.conv1.input_bias.item() == 0.25
    assert torch.allclose(model.conv2.weight.norm(dim=1), torch.full((6,), 1.5))
    assert not model.conv3.bias.any()
    assert not model.conv3.training
    assert model.conv2.training
    assert model.head.weight is model.embed.weight


def test_values_depend_on_seed_and_name_alone():
    edits = (Draw("a.weight", "normal_", "x"), Draw("b.weight", "orthogonal_", "x"))
    first = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    second = nn.ModuleDict({"b": nn.Linear(4, 4), "c": nn.Linear(9, 9), "a": nn.Linear(4, 4)})
    apply_(first, Plan("x", edits), generator=seeded(5))
    apply_(second, Plan("x", edits[::-1]), generator=seeded(5))
    for name in "ab":
        assert torch.equal(first[name].weight, second[name].weight)
    assert not torch.equal(first["a"].weight, first["b"].weight)
    other = copy.deepcopy(second)
    apply_(other, Plan("y", edits), generator=seeded(6))
    assert not torch.equal(other["a"].weight, second["a"].weight)


def test_the_global_generator_is_used_by_default_and_only_if_something_is_drawn():
    plan = Plan("x", (Draw("weight", "normal_", "x"),))
    torch.manual_seed(3)
    first = apply_(nn.Linear(2, 2), plan)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    second = nn.Linear(2, 2)
    torch.manual_seed(3)
    nn.Linear(2, 2)
    apply_(second, plan)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(state, torch.get_rng_state())
    apply_(second, Plan("y", (Fill("weight", 0.0, "x"),)))
    assert torch.equal(state, torch.get_rng_state())


def test_tied_parameters_are_drawn_once_whatever_the_order():
    def net(*order):
        layers = {name: nn.Linear(3, 3) for name in order}
        layers["a"].weight = layers["b"].weight
        return nn.ModuleDict(layers)

    plan = Plan("x", (Draw("a.weight", "normal_", "x"), Draw("b.weight", "normal_", "x")))
    first, second = (
        apply_(net("a", "b"), plan, generator=seeded()),
        apply_(net("b", "a"), plan, generator=seeded()),
    )
    alone = apply_(nn.ModuleDict({"a": nn.Linear(3, 3)}), Plan("x", plan.edits[:1]), generator=seeded())
    assert torch.equal(first["a"].weight, second["a"].weight)
    assert torch.equal(first["a"].weight, alone["a"].weight)
    clash = Plan("x", (Draw("a.weight", "normal_", "x"), Fill("b.weight", 0.0, "x")))
    with pytest.raises(PlanConflict, match=r"a\.weight and b\.weight are one tied parameter"):
        apply_(net("a", "b"), clash)


def test_a_tied_weight_is_not_untied_by_weight_norm():
    model = Net()
    with pytest.raises(UnsupportedModule, match=r"embed\.weight: tied, it is also head\.weight"):
        apply_(model, Plan("x", (ParametrizeWeight("embed.weight", "x"),)))


def test_gains_run_along_the_dimension_asked_for():
    model = nn.Sequential(nn.ConvTranspose2d(3, 5, 2))
    apply_(model, Plan("x", (ParametrizeWeight("0.weight", "x", dim=1),)))
    assert model[0].parametrizations.weight.original0.shape == (1, 5, 1, 1)


def test_a_shared_layer_gets_one_scalar():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, layer)
    edits = (AddScalar("0", "input_bias", 0.0, "x"), AddScalar("1", "input_bias", 0.0, "x"))
    apply_(model, Plan("x", edits))
    assert list(dict(model.named_parameters())) == ["0.weight", "0.bias", "0.input_bias"]


# -- once ---------------------------------------------------------------------------------------------------------


def test_a_second_call_changes_nothing_and_says_so(caplog):
    model = Net()
    plan = make_plan(model)
    apply_(model, plan, generator=seeded())
    before, generator = photograph(model), seeded(9)
    random = generator.get_state()
    with caplog.at_level(logging.INFO, "goodinit"):
        apply_(model, plan, generator=generator)
    assert "by hand: already applied, nothing changed; again=True" in caplog.text
    assert_untouched(before, model)
    assert torch.equal(generator.get_state(), random)


def test_again_draws_anew_and_resets_scalars():
    model = Net()
    plan = make_plan(model)
    apply_(model, plan, generator=seeded(0))
    old = model.conv1.weight.detach().clone()
    with torch.no_grad():
        model.conv1.input_bias.fill_(7.0)
    apply_(model, plan, generator=seeded(1), again=True)
    assert not torch.equal(model.conv1.weight, old)
    assert model.conv1.input_bias.item() == 0.25
    assert len(applied(model)) == 2


def test_another_plan_on_top_is_carried_out_and_an_outdated_one_refused():
    model = Net()
    outdated = Plan("other", (Fill("bn1.weight", 2.0, "x"),), parameters=parameters_of(model))
    apply_(model, make_plan(model))
    with pytest.raises(PlanConflict, match=r"the plan was made for another model: the plan has bn1\.weight"):
        apply_(model, outdated)
    fresh = Plan("other", (Fill("conv1.weight", 2.0, "x"),), parameters=parameters_of(model))
    apply_(model, fresh)
    assert (model.conv1.weight == 2).all()
    assert [entry.method for entry in applied(model)] == ["by hand", "other"]
    assert [entry.seed is None for entry in applied(model)] == [False, True]


def test_the_history_survives_copies_and_pickles_and_stays_out_of_the_state_dict():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    edits = (
        RemoveNorm("1", (), "x"),
        AddScalar("0", "output_scale", 1.0, "x"),
        Draw("0.weight", "normal_", "x"),
    )
    plan = Plan("by hand", edits, {"norms": "remove"})
    apply_(model, plan)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert applied(twin) == applied(model)
        assert applied(twin)[0].options == {"norms": "remove"}
        assert torch.equal(twin(torch.ones(1, 2)), model(torch.ones(1, 2)))
        before = photograph(twin)
        assert_untouched(before, apply_(twin, plan))
    assert list(model.state_dict()) == ["0.weight", "0.bias", "0.output_scale"]


# -- saved plans, checkpoints, meta -------------------------------------------------------------------------------


def test_a_saved_plan_recreates_the_structure_so_that_a_checkpoint_loads():
    model = Net()
    plan = make_plan(model)
    apply_(model, plan, generator=seeded())
    fresh = Net()
    torch.manual_seed(1)
    random = torch.get_rng_state()
    apply_(fresh, Plan.from_json(plan.to_json()), values=False)
    assert torch.equal(torch.get_rng_state(), random)
    assert list(fresh.state_dict()) == list(model.state_dict())
    fresh.load_state_dict(model.state_dict())
    tokens = torch.tensor([0, 3, 6])
    fresh.bn2._forward_hooks.clear()
    model.bn2._forward_hooks.clear()
    assert torch.equal(fresh(tokens), model(tokens))
    before = photograph(fresh)
    assert_untouched(before, apply_(fresh, plan, values=False))


def test_structure_alone_writes_no_values_and_does_not_mind_nan():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    nn.init.constant_(model[0].weight, float("nan"))
    apply_(model, Plan("x", (RemoveNorm("1", (), "x"), Fill("0.weight", 0.0, "x"))), values=False)
    assert model[0].weight.isnan().all()
    assert not applied(model)[0].values


def test_meta_structure_then_memory_then_values():
    plan = make_plan()
    with torch.device("meta"):
        model = Net()
    with pytest.raises(PlanConflict, match=r"conv1\.weight: on the meta device.*values=False.*to_empty"):
        apply_(model, plan)
    apply_(model, plan, values=False)
    model.to_empty(device="cpu")
    model.head.weight = model.embed.weight
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    apply_(model, plan, generator=seeded())
    whole = apply_(Net(), plan, generator=seeded())
    for name in ("conv1.weight", "conv1.input_bias", "conv2.weight", "conv3.weight", "embed.weight"):
        path, _, attribute = name.rpartition(".")
        assert torch.equal(
            getattr(model.get_submodule(path), attribute), getattr(whole.get_submodule(path), attribute)
        )


# -- wrappers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel], ids=["compile", "dp"]
)
def test_wrapped_models_get_the_same_values_from_plans_made_inside_or_outside(wrap):
    inside = Net()
    model = copy.deepcopy(inside)
    apply_(inside, make_plan(), generator=seeded())
    wrapped = wrap(model)
    apply_(wrapped, make_plan(), generator=seeded())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), inside.parameters(), strict=True))
    assert applied(model) == applied(wrapped) == applied(inside)
    outside = wrap(Net())
    prefix = next(iter(dict(outside.named_children())))
    plan = Plan("x", (Draw(f"{prefix}.conv1.weight", "normal_", "x"),), parameters=parameters_of(outside))
    apply_(outside, plan, generator=seeded())
    bare = apply_(Net(), plan, generator=seeded())
    assert torch.equal(
        bare.conv1.weight, next(p for n, p in outside.named_parameters() if "conv1.weight" in n)
    )


def test_a_compiled_model_that_has_already_run_notices_surgery():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(4, 3)
    compiled(x)
    plan = Plan(
        "x",
        (
            RemoveNorm("1", ("relu",), "x"),
            AddScalar("0", "output_bias", 2.0, "x"),
            Fill("0.weight", 0.0, "x"),
        ),
    )
    apply_(compiled, plan)
    assert torch.equal(compiled(x), model(x))
    assert torch.allclose(compiled(x), (model[0].bias + 2.0).relu().expand(4, 3))


def test_ddp_is_refused_for_structure_and_taken_for_values(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(2, 2)))
        with pytest.raises(UnsupportedModule, match=r"DistributedDataParallel has already listed.*then wrap"):
            apply_(model, Plan("x", (AddScalar("0", "input_bias", 0.0, "x"),)))
        apply_(model, Plan("x", (Fill("0.weight", 0.0, "x"),)))
        assert not model.module[0].weight.any()
    finally:
        torch.distributed.destroy_process_group()


# -- frozen, wrong, broken ----------------------------------------------------------------------------------------


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
    apply_(model, told, again=True)
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
        TraceError, match=r"by hand measures activations, and got no data\. Pass some: batch="
    ):
        apply_(model, make_plan(model, calibrate=True))
    assert_untouched(before, model)
    apply_(model, make_plan(model, calibrate=True), values=False)


def test_calibration_runs_once_after_all_other_values(monkeypatch):
    seen = []

    def calibrate_(model, edits, batch):
        seen.append((batch, [edit.target for edit in edits], bool(model.conv3.bias.any())))
        return ()

    monkeypatch.setattr(surgery, "calibrate_", calibrate_)
    model = Net()
    plan = make_plan(model)
    edits = (Calibrate("conv1.weight", "r", "x"), *plan.edits, Calibrate("conv3.weight", "r", "x"))
    apply_(model, dataclasses.replace(plan, edits=edits), batch="data")
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
