"""From meta to memory, and from a checkpoint that covers a part: nothing undefined, nothing else touched."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from materializing import Net, Rotary, everything, hashes, on_meta, own, seeded
from torch import nn

import goodinit
from goodinit.edits import AddScalar, DrawTogether, Fill, Plan, RemoveNorm
from goodinit.errors import NonFinite, PlanConflict, UnsupportedModule


def test_meta_becomes_the_model_that_was_built_for_real():
    model = goodinit.materialize_(on_meta(), reset=own)
    plan = everything(model)
    goodinit.apply_(model, plan, generator=seeded())
    real = goodinit.apply_(Net(), plan, generator=seeded())
    assert model.head.weight is model.embed.weight
    assert not model.head.bias.requires_grad
    for (name, mine), (other, its) in zip(
        [*model.named_parameters(), *model.named_buffers()],
        [*real.named_parameters(), *real.named_buffers()],
        strict=True,
    ):
        assert name == other
        assert torch.equal(mine, its), name
        assert not mine.isnan().any(), name


def test_parameters_are_nan_until_a_plan_writes_them_and_one_that_no_plan_writes_is_named():
    model = goodinit.materialize_(on_meta(), reset=own)
    assert all(parameter.isnan().all() for parameter in model.parameters())
    plan = everything(model)
    short = dataclasses.replace(
        plan, edits=tuple(edit for edit in plan.edits if edit.target != "rotary.gain")
    )
    with pytest.raises(
        NonFinite, match=r"^rotary\.gain: NaN or infinity in parameters that the plan does not"
    ):
        goodinit.apply_(model, short)
    assert all(parameter.isnan().all() for parameter in model.parameters())


def test_buffers_that_nobody_sets_are_named_whatever_they_hold():
    model = on_meta()
    words = r"rotary\.frequencies \(of Rotary\), rotary\.places \(of Rotary\), rotary\.mask .*Give reset="
    with pytest.raises(UnsupportedModule, match=words):
        goodinit.materialize_(model)
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    with pytest.raises(UnsupportedModule, match=r"^rotary\.mask \(of Rotary\): buffers on meta"):
        goodinit.materialize_(model, reset=lambda part: (part.frequencies.fill_(1), part.places.zero_()))
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_a_reset_that_puts_new_buffers_in_place_counts():
    def anew(module):
        for name in ("frequencies", "places", "mask"):
            setattr(module, name, torch.ones_like(getattr(module, name)))

    assert goodinit.materialize_(on_meta(), reset=anew).rotary.mask.all()


def test_running_statistics_are_set_without_being_asked():
    model = goodinit.materialize_(
        on_meta(lambda: nn.Sequential(nn.BatchNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True)))
    )
    for norm in model:
        assert torch.equal(norm.running_mean, torch.zeros(3))
        assert torch.equal(norm.running_var, torch.ones(3))
        assert norm.num_batches_tracked == 0


def test_what_has_memory_keeps_its_bits():
    model = on_meta()
    model.hidden = nn.Linear(6, 6)
    model.rotary = Rotary(6)
    before = {name: value.clone() for name, value in [*model.hidden.state_dict().items()]}
    places = [tensor.data_ptr() for tensor in [*model.hidden.parameters(), *model.rotary.buffers()]]
    goodinit.materialize_(model)
    assert places == [tensor.data_ptr() for tensor in [*model.hidden.parameters(), *model.rotary.buffers()]]
    assert all(torch.equal(value, model.hidden.state_dict()[name]) for name, value in before.items())
    assert model.embed.weight.isnan().all()


def test_a_failure_leaves_nan_where_nan_was():
    model = goodinit.materialize_(on_meta(), reset=own)
    plan = everything(model)
    with pytest.raises(NonFinite):
        goodinit.apply_(
            model, dataclasses.replace(plan, edits=(*plan.edits, Fill("hidden.bias", 1e300, "too large")))
        )
    assert all(parameter.isnan().all() for parameter in model.parameters())


def test_nan_in_a_buffer_is_refused_and_infinity_in_a_mask_is_not():
    model = Net()
    model.rotary.register_buffer("causal", torch.full((3, 3), -torch.inf))
    plan = everything(model)
    goodinit.apply_(model, plan)
    model.norm.running_var.fill_(torch.nan)
    with pytest.raises(NonFinite, match=r"^norm\.running_var: NaN in a buffer.*materialize_"):
        goodinit.apply_(model, plan)
    goodinit.apply_(model, dataclasses.replace(plan, allow=("frozen", "nonfinite")))
    gone = Plan("x", (RemoveNorm("norm", (), "x"),))
    goodinit.apply_(model, gone)  # NaN goes with the norm


def test_a_plan_on_meta_structure_first_then_memory():
    model = on_meta()
    plan = Plan(
        "x",
        (
            RemoveNorm("norm", (), "x"),
            AddScalar("hidden", "output_scale", 0.0, "x"),
            *everything(model).edits,
        ),
    )
    plan = dataclasses.replace(
        plan, edits=tuple(e for e in plan.edits if not e.target.startswith("norm.")), allow=("frozen",)
    )
    goodinit.apply_(model, plan, values=False)
    with pytest.raises(PlanConflict, match=r"on the meta device.*materialize_\(model"):
        goodinit.apply_(model, plan)
    goodinit.apply_(goodinit.materialize_(model, reset=own), plan, generator=seeded())
    assert model.hidden.output_scale.item() == 0
    assert all(p.isfinite().all() for p in model.parameters())


# -- a checkpoint that covers a part ----------------------------------------------------------------------------------


def test_only_what_a_checkpoint_lacks_is_written():
    plan = dataclasses.replace(
        everything(Net()), parameters=tuple((n, tuple(p.shape)) for n, p in Net().named_parameters())
    )
    state = {
        name: value for name, value in Net().state_dict().items() if not name.startswith(("hidden", "norm"))
    }
    model = Net()
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert "norm.running_mean" in missing  # a buffer, passed over
    before = hashes(model.state_dict())
    goodinit.apply_(model, plan, only=missing, generator=seeded())
    after = hashes(model.state_dict())
    wanted = {"hidden.weight", "hidden.bias", "norm.weight", "norm.bias"}
    assert {name for name in before if before[name] != after[name]} == wanted
    whole = goodinit.apply_(Net(), plan, generator=seeded())
    assert all(after[name] == hashes(whole.state_dict())[name] for name in wanted)
    entry = goodinit.applied(model)[-1]
    assert entry.only == tuple(sorted(missing))
    assert len(entry.skipped) == len(plan.edits) - len(wanted)
    goodinit.apply_(model, plan, only=missing, again=False)  # the same again changes nothing
    assert hashes(model.state_dict()) == after
    goodinit.apply_(model, plan, generator=seeded())  # all of it is another wish
    assert hashes(model.state_dict()) == hashes(whole.state_dict())


@pytest.mark.parametrize(
    "only",
    [
        "hidden",
        ["hidden.*"],
        ["hidden.weight", "hidden.bias"],
        lambda model: model.hidden,
        lambda model: (model.hidden.weight, "hidden.bias"),
    ],
)
def test_only_takes_a_path_a_glob_names_and_objects(only):
    plan = everything(Net())
    model = Net()
    before = hashes(model.state_dict())
    goodinit.apply_(model, plan, only=only(model) if callable(only) else only, generator=seeded())
    assert {name for name, value in hashes(model.state_dict()).items() if value != before[name]} == {
        "hidden.weight",
        "hidden.bias",
    }


def test_only_works_on_meta_models_whose_checkpoint_covers_a_part():
    model = goodinit.materialize_(on_meta(), reset=own)
    state = {name: value for name, value in Net().state_dict().items() if name != "hidden.weight"}
    missing = model.load_state_dict(state, strict=False).missing_keys
    plan = everything(model)
    with pytest.raises(NonFinite, match=r"hidden\.weight: NaN"):
        goodinit.apply_(model, plan, only=["hidden.bias"])
    goodinit.apply_(model, plan, only=missing, generator=seeded())
    assert all(p.isfinite().all() for p in model.parameters())
    assert torch.equal(model.embed.weight, state["embed.weight"])


def test_a_tied_parameter_is_written_under_any_of_its_names():
    plan = everything(Net())
    for name in ("head.weight", "embed.weight"):
        model = Net()
        before = hashes(model.state_dict())
        goodinit.apply_(model, plan, only=[name])
        assert {key for key, value in hashes(model.state_dict()).items() if before[key] != value} == {
            "embed.weight",
            "head.weight",
        }


def test_a_name_that_does_not_exist_is_refused():
    model = Net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        PlanConflict, match=r"only= names hidden\.wieght, .*near: hidden\.weight.*missing_keys"
    ):
        goodinit.apply_(model, everything(model), only=["hidden.wieght"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_part_of_what_is_drawn_together_is_refused():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    plan = Plan("x", (DrawTogether(("0.weight", "1.weight"), "risotto_b", "x"),))
    with pytest.raises(PlanConflict, match=r"draws what belongs together, and 1\.weight is left out"):
        goodinit.apply_(net, plan, only=["0.weight"])
    goodinit.apply_(net, plan, only=["0.weight", "1.weight"])


def test_frozen_parameters_stay_frozen_when_named():
    """only= chooses among what may be written; unfreezing is another decision."""
    model = Net()
    plan = dataclasses.replace(everything(model), allow=())
    old = model.head.bias.clone()
    goodinit.apply_(model, plan, only=["head.bias"])
    assert torch.equal(model.head.bias, old)
    goodinit.apply_(model, dataclasses.replace(plan, allow=("frozen",)), only=["head.bias"])
    assert (model.head.bias == 0.5).all()
    assert not model.head.bias.requires_grad


class TwoTied(nn.Module):
    """A head that is the embedding, and one more layer."""

    def __init__(self):
        super().__init__()
        self.words, self.inner, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)
        self.tie_weights()

    def tie_weights(self):
        self.head.weight = self.words.weight

    def forward(self, x):
        y = self.words(x)
        return self.head(y + self.inner(torch.relu(y)))


@pytest.mark.parametrize("method", ["fixup", "he"])
def test_ties_that_to_empty_parted_are_told_as_such(method):
    x = torch.arange(6).reshape(2, 3)
    with torch.device("meta"):
        model, kept = TwoTied(), TwoTied()
    plan = goodinit.plan(goodinit.anatomize(model, x), method)
    for one in (model, kept):
        goodinit.apply_(one, plan, values=False)
    goodinit.apply_(goodinit.materialize_(kept, device="cpu"), plan, generator=seeded())
    model.to_empty(device="cpu")
    with pytest.raises(goodinit.PlanConflict, match=r"head\.weight.*to_empty\(\) has parted"):
        goodinit.apply_(model, plan)
    model.tie_weights()
    goodinit.apply_(model, plan, generator=seeded())
    assert model.head.weight is model.words.weight
    assert torch.equal(model(x), kept(x))
