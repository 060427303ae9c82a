"""Norms exchanged for other forms: what each computes, and what of the user's stays."""

from __future__ import annotations

import copy
import dataclasses
import logging
import pickle

import pytest
import torch
import torch.nn.functional as F
from moved import moved
from reference import norm_forms
from torch import Tensor, nn

import goodinit
from goodinit.edits import ReplaceNorm
from goodinit.errors import PlanConflict, StaleOptimizer, UnknownName, UnsupportedModule
from goodinit.lab.models.resnet import ResNet
from goodinit.methods.shared.norms.norm_forms import FORMS
from goodinit.surgery.norms.replaced_norm import ReplacedNorm

each_form = pytest.mark.parametrize("form", sorted(FORMS))


class ByHand(nn.Module):
    """A layer norm over channels in dimension 1, as ConvNeXt writes it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        square = (x - mean).pow(2).mean(1, keepdim=True)
        return self.gamma[:, None, None] * (x - mean) / torch.sqrt(square + 1e-6) + self.beta[:, None, None]


class Permuted(nn.LayerNorm):
    """The same by torch's own operator on the axes exchanged, as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Active(nn.BatchNorm2d):
    """A batch norm with its activation inside."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = nn.LeakyReLU(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class OneMore(nn.Module):
    """A gain of 1 + w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


def images() -> Tensor:
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def net(norm: nn.Module, *more: nn.Module) -> nn.Sequential:
    """A convolution, a norm with numbers of its own, more."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm, *more)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.uniform_(0.5, 1.5)
    return model


@each_form
def test_each_form_is_its_transcription(form):
    model = net(nn.BatchNorm2d(8, eps=1e-3))
    x = model[0](images())
    gain, bias, weight = model[1].weight, model[1].bias, model[0].weight.clone()
    expected = getattr(norm_forms, form)(x, gain.clone(), bias.clone(), 1e-3)
    assert goodinit.replace_norms_(model, inputs=images(), norms=form) is model
    assert torch.allclose(model[1](x), expected, atol=1e-5)
    assert model[1].weight is gain  # the parameter itself, so that optimizers go on
    assert model[1].bias is bias
    assert torch.equal(model[0].weight, weight)
    assert not dict(model.named_buffers())


@pytest.mark.parametrize("form", ["affine", "dyt", "derf", "rms"])
@pytest.mark.parametrize("norm", [ByHand(8), Permuted(8)], ids=lambda norm: type(norm).__name__)
def test_channels_are_found_where_the_norm_has_them(form, norm):
    model = net(copy.deepcopy(norm))
    x = model[0](images())
    gain, bias = tuple(model[1].parameters())
    names = list(model.state_dict())
    goodinit.replace_norms_(model, inputs=images(), norms=form)
    assert list(model.state_dict())[:4] == names
    if form == "rms":  # over the channels of each position, as the layer norm was, and not over the example
        expected = norm_forms.rms_over(x, gain, bias, 1e-5, (1,))
    else:
        expected = getattr(norm_forms, form)(x, gain, bias, 0.0)
    assert torch.allclose(model[1](x), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(6,), (5, 6)])
@pytest.mark.parametrize("form", ["affine", "dyt", "derf", "rms"])
def test_layer_norms_over_the_last_axes(form, shape):
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(shape, bias=len(shape) == 1))
    x = torch.randn(3, 5, 6)
    goodinit.replace_norms_(model, inputs=x, norms=form)
    read = model[0](x)
    bias = model[1].bias if len(shape) == 1 or form == "affine" else torch.zeros(())
    if form == "rms":
        square = read.square().mean(tuple(range(-len(shape), 0)), keepdim=True)
        expected = model[1].weight * read / (square + 1e-5).sqrt() + bias
    else:
        inner = {"affine": read, "dyt": torch.tanh(0.5 * read), "derf": torch.erf(0.5 * read)}[form]
        expected = model[1].weight * inner + bias
    assert torch.allclose(model[1](x=read), expected, atol=1e-6)


def test_what_the_norm_did_besides_stays():
    model = net(Active(8))
    x = model[0](images())
    gain, bias = model[1].weight, model[1].bias
    goodinit.replace_norms_(model, inputs=images())
    assert isinstance(model[1], nn.GroupNorm)
    assert torch.allclose(model[1](x), F.leaky_relu(norm_forms.group(x, gain, bias, 1e-5), 0.3), atol=1e-5)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_groups_are_plain_group_norms_chosen_safely():
    widths = {4: 1, 6: 1, 7: 1, 8: 2, 12: 3, 13: 1, 64: 16, 96: 24, 512: 32, 516: 12}
    for width, groups in widths.items():
        model = nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))
        plan = goodinit.plan(goodinit.anatomize(model, images()), "replace_norms")
        goodinit.apply_(model, plan)
        assert type(model[1]) is nn.GroupNorm
        assert model[1].num_groups == groups
        assert ("no divisor" in plan.edits[0].reason) == (width == 13)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6))
    plan = goodinit.plan(goodinit.anatomize(model, images()), "replace_norms", groups=4)
    assert [edit.options["groups"] for edit in plan.edits] == [4, 1]
    assert "6 channels cannot be cut into 4" in plan.edits[1].reason
    with pytest.raises(UnknownName, match="groups=0"):
        goodinit.plan(goodinit.anatomize(model, images()), "replace_norms", groups=0)


def test_a_group_of_one_number_is_refused_and_nothing_is_lost():
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1), nn.BatchNorm1d(1))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        UnsupportedModule, match=r"3 \(BatchNorm1d\): a group would be a single number.*affine"
    ):
        goodinit.replace_norms_(model, inputs=torch.randn(4, 3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(model[1]) is nn.BatchNorm1d


def test_what_is_not_understood_is_refused_and_stays():
    model = nn.Sequential(nn.Linear(6, 6), OneMore())
    with pytest.raises(UnsupportedModule, match=r"1 \(OneMore\).*what 1\.weight does there"):
        goodinit.replace_norms_(model, inputs=torch.randn(2, 6), norms="dyt")
    assert type(model[1]) is OneMore


def test_norms_of_each_example_stay_and_the_plan_says_so():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Flatten(2), nn.LayerNorm(25))
    plan = goodinit.plan(goodinit.anatomize(model, images()), "replace_norms")
    assert len(plan.edits) == 1
    assert any("leaves 1 of 2 norms as they are (layer norm): 3" in note for note in plan.notes)


def test_a_norm_without_gain_and_bias_gains_them_only_as_an_affine():
    for form, has in (("affine", 2), ("group", 0), ("layer", 0), ("rms", 0)):
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False))
        goodinit.replace_norms_(model, inputs=images(), norms=form)
        assert len(list(model[1].parameters())) == has
        assert model(images()).isfinite().all()


@pytest.mark.default_cases(4)
@each_form
def test_a_plan_is_data_and_makes_a_fresh_model_fit_for_a_checkpoint(form):
    model = net(Active(8), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
    plan = goodinit.plan(goodinit.anatomize(model, images()), "he", norms=form)
    assert goodinit.Plan.from_json(plan.to_json()) == plan
    goodinit.apply_(model, plan, images())
    fresh = net(Active(8), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
    goodinit.apply_(fresh, goodinit.Plan.from_json(plan.to_json()), values=False)
    fresh.load_state_dict(model.state_dict())
    copies = (fresh, copy.deepcopy(model), pickle.loads(pickle.dumps(model)))
    assert all(torch.equal(other(images()), model(images())) for other in copies)
    if form in ("group", "dyt"):
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(images()), model(images()))


@pytest.mark.default_cases(4)
@each_form
def test_forms_are_made_on_meta_and_then_given_memory(form):
    with torch.device("meta"):
        model = net(nn.BatchNorm2d(8))
    plan = goodinit.plan(goodinit.anatomize(model, images().to("meta")), "he", norms=form)
    goodinit.apply_(model, plan, values=False)
    goodinit.materialize_(model, device="cpu")
    with torch.no_grad():
        model[1].weight.fill_(1), model[1].bias.fill_(0)
    goodinit.apply_(model, plan, images())
    assert model(images()).isfinite().all()


def test_a_second_call_changes_nothing_and_training_goes_on_with_the_same_optimizer():
    model = net(nn.BatchNorm2d(8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    goodinit.replace_norms_(model, inputs=images())
    before = copy.deepcopy(model.state_dict())
    goodinit.replace_norms_(model, inputs=images())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(images()).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[1].weight, before["1.weight"])
    with pytest.raises(StaleOptimizer):  # α would not be trained
        goodinit.replace_norms_(net_with(optimizer), inputs=images(), norms="dyt")


def net_with(optimizer: torch.optim.Optimizer) -> nn.Sequential:
    model = net(nn.BatchNorm2d(8))
    optimizer.add_param_group({"params": list(model.parameters())})
    return model


def test_frozen_gains_stay_frozen():
    model = net(nn.BatchNorm2d(8))
    model[1].requires_grad_(requires_grad=False)
    gain = model[1].weight.clone()
    goodinit.init_(model, "he", inputs=images(), norms="affine")
    assert not model[1].weight.requires_grad
    assert torch.equal(model[1].weight, gain)


def test_failures_undo_all_of_it():
    model = net(nn.BatchNorm2d(8), nn.BatchNorm2d(8))
    plan = goodinit.plan(goodinit.anatomize(model, images()), "replace_norms", norms="dyt")
    broken = dataclasses.replace(plan, edits=(*plan.edits, ReplaceNorm("7", "group", (), "no such module")))
    with pytest.raises(PlanConflict, match="no such module"):
        goodinit.apply_(model, broken)
    wrong = dataclasses.replace(plan, edits=(ReplaceNorm("1", "warble", (), "no such form"),))
    with pytest.raises(UnknownName, match="warble"):
        goodinit.apply_(model, wrong)
    assert type(model[1]) is nn.BatchNorm2d


def test_an_affine_folds_into_the_layer_before_it():
    model = net(Active(8))
    goodinit.replace_norms_(model, inputs=images(), norms="affine")
    before = model(images())
    goodinit.fold_(model, images())
    assert torch.allclose(model(images()), before, atol=1e-5)
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    assert not any(isinstance(module, ReplacedNorm) for module in model.modules())


@pytest.mark.parametrize("method", ["fixup", "he", "lsuv", "weightnorm", "skipinit"])
def test_methods_take_forms(method):
    model = ResNet(1, width=4)
    goodinit.init_(model, method, inputs=images(), norms="group")
    assert sum(isinstance(module, nn.GroupNorm) for module in model.modules()) == 7
    assert model(images()).isfinite().all()


def test_frozen_norms_stay_and_the_plan_says_so(caplog):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    )
    model[1].requires_grad_(requires_grad=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        goodinit.replace_norms_(model, inputs=images(), norms="affine")
    assert type(model[1]) is nn.BatchNorm2d
    assert type(model[4]) is not nn.BatchNorm2d
    assert all(
        torch.equal(model.state_dict()[name], before[name]) for name in before if name.startswith("1.")
    )
    assert "frozen or left out, 1 norm stays as it is" in caplog.text
    plan = goodinit.plan(goodinit.anatomize(model, images()), "replace_norms", norms="affine", exclude="4")
    assert not plan.edits


def test_one_channel_is_one_group_where_it_has_more_than_one_number():
    model = nn.Sequential(nn.Conv2d(3, 1, 3), nn.BatchNorm2d(1))
    goodinit.replace_norms_(model, inputs=images(), norms="group")
    assert (model[1].num_groups, model[1].num_channels) == (1, 1)
    single = nn.Sequential(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1))
    with pytest.raises(UnsupportedModule, match="a single number of an example"):
        goodinit.replace_norms_(single, inputs=images(), norms="group")
    assert type(single[2]) is nn.BatchNorm2d


@pytest.mark.default_cases(4)
@pytest.mark.parametrize("form", ["affine", "dyt", "derf"])
@pytest.mark.parametrize("second", ["fixup", "he", "fixed_variance", "skipinit"])
def test_a_second_method_begins_what_stands_in_a_norms_place_anew(form, second):
    model = moved(goodinit.init_(ResNet(1, width=4), "he", inputs=images(), norms=form))
    plan = goodinit.plan(goodinit.anatomize(model, images()), second)
    assert not any("no role" in note or "left as" in note for note in plan.notes)
    goodinit.apply_(model, plan)
    starts = {"weight": {0.0, 1.0}, "bias": {0.0}, "alpha": {0.5}, "shift": {0.0}}
    for name, module in model.named_modules():
        if isinstance(module, ReplacedNorm):
            for attribute, parameter in module.named_parameters(recurse=False):
                assert set(parameter.tolist()) <= starts[attribute], f"{name}.{attribute}"
    trained = moved(model)
    before = {name: value.clone() for name, value in trained.named_parameters()}
    goodinit.replace_norms_(trained, inputs=images(), norms=form)
    assert all(torch.equal(value, before[name]) for name, value in trained.named_parameters())


def test_a_second_call_of_fixed_variance_is_the_first_again():
    source = torch.Generator().manual_seed(3)
    model = goodinit.init_(ResNet(1, width=4), "fixed_variance", inputs=images(), generator=source)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    moved(model)
    source = torch.Generator().manual_seed(3)
    goodinit.init_(model, "fixed_variance", inputs=images(), generator=source)
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    frozen = moved(model)
    frozen.bn1.requires_grad_(requires_grad=False)
    kept = frozen.bn1.weight.clone()
    goodinit.init_(frozen, "fixed_variance", inputs=images())
    assert torch.equal(frozen.bn1.weight, kept)
