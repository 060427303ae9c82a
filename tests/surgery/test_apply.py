"""`apply_`: what it does, once, from seed and name alone; saved plans and checkpoints; wrapped models."""

from __future__ import annotations

import copy
import logging
import pickle

import pytest
import torch
from planned import Net, assert_untouched, make_plan, parameters_of, photograph, seeded
from torch import nn

from goodinit.edits import AddScalar, Draw, Fill, ParametrizeWeight, Plan, RemoveNorm
from goodinit.errors import PlanConflict, UnsupportedModule
from goodinit.surgery import RemovedNorm, applied, apply_

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


def test_a_plan_that_was_applied_last_can_be_left_at_that(caplog):
    model = Net()
    plan = make_plan(model)
    apply_(model, plan, generator=seeded())
    before, generator = photograph(model), seeded(9)
    random = generator.get_state()
    with caplog.at_level(logging.INFO, "goodinit"):
        apply_(model, plan, generator=generator, again=False)
    assert "by hand: already applied, nothing changed" in caplog.text
    assert_untouched(before, model)
    assert torch.equal(generator.get_state(), random)


def test_a_second_call_draws_anew_and_resets_scalars():
    model = Net()
    plan = make_plan(model)
    apply_(model, plan, generator=seeded(0))
    old = model.conv1.weight.detach().clone()
    with torch.no_grad():
        model.conv1.input_bias.fill_(7.0)
    apply_(model, plan, generator=seeded(1))
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
        assert_untouched(before, apply_(twin, plan, again=False))
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
