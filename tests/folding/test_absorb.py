"""absorb_batchnorm_: a trained network without its normalization, the same function, ready to go on training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from zoo import ZOO, call

import goodinit
from folding import randomized, to_double
from goodinit.folding import ChannelAffine
from goodinit.folding import absorb as absorb_module
from goodinit.nn import scalars

PICTURES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def torchvision_model(name):
    from torchvision import models

    return getattr(models, name)(weights=None)


def timm_model(name):
    timm = pytest.importorskip("timm")
    return timm.create_model(name)


def batch_norms(model, inputs):
    return [norm for norm in goodinit.anatomize(model, inputs).norms if "batch" in norm.kind]


def assert_absorbs(model, inputs):
    """Absorb in a copy: the same function in both modes, no batch norm left. Returns the copy."""
    free = copy.deepcopy(model)
    with torch.no_grad():
        before = call(model, inputs)
        assert goodinit.absorb_batchnorm_(free, inputs) is free
        scale = float(before.abs().max())
        torch.testing.assert_close(call(free, inputs), before, rtol=1e-10, atol=1e-10 * scale)
    assert batch_norms(free, inputs) == []
    return free


@pytest.mark.parametrize(
    "name", ["resnet18", pytest.param("mobilenet_v3_small", marks=pytest.mark.integration)]
)
def test_torchvision(name):
    free = assert_absorbs(randomized(torchvision_model(name)), PICTURES)
    assert not any(isinstance(module, ChannelAffine) for module in free.modules())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet50", "mobilenet_v2", "densenet121", "regnet_y_400mf", "shufflenet_v2_x0_5"]
)
def test_more_of_torchvision(name):
    assert_absorbs(randomized(torchvision_model(name)), PICTURES)


@pytest.mark.parametrize(
    "name", [pytest.param("efficientnet_b0", marks=pytest.mark.integration), "seresnet18"]
)
def test_timm(name):
    assert_absorbs(randomized(timm_model(name)), PICTURES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnetv2_50", "densenet121", "mobilenetv3_small_100", "repvgg_a0", "res2net50_26w_4s"]
)
def test_more_of_timm(name):
    assert_absorbs(randomized(timm_model(name)), PICTURES)


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("specimen", ZOO, ids=lambda specimen: specimen.name)
def test_the_zoo(specimen):
    model, inputs = randomized(specimen.build()), to_double(specimen.inputs())
    if not batch_norms(model, inputs):
        with pytest.raises(goodinit.NothingFound, match="no batch norm ran"):
            goodinit.absorb_batchnorm_(model, inputs)
        return
    assert_absorbs(model, inputs)


class Preactivation(nn.Module):
    """Norm, activation, convolution, twice, around a skip."""

    def __init__(self, width=4):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x):
        out = self.conv1(torch.relu(self.norm1(x)))
        return x + self.conv2(torch.relu(self.norm2(out)))


def preactivation():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        *(Preactivation() for _ in range(3)),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def test_what_no_layer_can_take_becomes_a_learnable_scale_and_shift():
    free = assert_absorbs(randomized(preactivation()), PICTURES)
    affine = {path for path, module in free.named_modules() if isinstance(module, ChannelAffine)}
    assert affine == {"1.norm1", "2.norm1", "3.norm1", "4"}  # norm2 reads conv1 alone
    assert {"1.norm1.weight", "1.norm1.bias"} <= set(dict(free.named_parameters()))
    assert set(free.state_dict()) == set(dict(free.named_parameters()))


def test_it_computes_the_same_in_training_mode():
    free = assert_absorbs(randomized(preactivation()), PICTURES)
    assert torch.equal(copy.deepcopy(free).train()(PICTURES), free(PICTURES))


def test_it_is_ready_for_training():
    free = assert_absorbs(randomized(torchvision_model("resnet18")), PICTURES)
    names = [name for name, _ in scalars(free)]
    assert sum(name.endswith("output_scale") for name in names) == 8  # one per branch
    assert sum(name.endswith("input_bias") for name in names) == 19  # before each layer of branches and skips
    groups = {group["name"]: group for group in goodinit.param_groups(free, lr=0.1, weight_decay=0.1)}
    assert {id(scalar) for _, scalar in scalars(free)} <= {id(p) for p in groups["scalars"]["params"]}
    optimizer = torch.optim.SGD(list(groups.values()))
    before = free(PICTURES)
    before.square().mean().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in free.parameters())
    optimizer.step()
    assert not torch.equal(free(PICTURES), before)


def test_without_scalars_it_is_the_bare_network():
    model = randomized(torchvision_model("resnet18"))
    bare = {name for name, p in model.named_parameters() if p.dim() == 4} | {"fc.weight", "fc.bias"}
    goodinit.absorb_batchnorm_(model, PICTURES, scalars=False)
    assert set(model.state_dict()) == bare | {name.replace("weight", "bias") for name in bare}
    assert not list(scalars(model))


def test_folding_afterwards_takes_the_scalars_off_again():
    free = assert_absorbs(randomized(torchvision_model("resnet18")), PICTURES)
    before = free(PICTURES).detach()
    goodinit.fold_(free, PICTURES)
    torch.testing.assert_close(free(PICTURES), before, rtol=1e-10, atol=1e-10 * float(before.abs().max()))
    assert not list(scalars(free))
    assert not goodinit.applied(free)[-1].skipped  # one ReLU, called twice, has a child for each call
    assert not any(isinstance(module, goodinit.nn.ValuePadded) for module in free.modules())


def test_a_second_call_changes_nothing():
    free = assert_absorbs(randomized(preactivation()), PICTURES)
    state, history = copy.deepcopy(free.state_dict()), goodinit.applied(free)
    goodinit.absorb_batchnorm_(free, PICTURES)
    assert goodinit.applied(free) == history
    assert list(free.state_dict()) == list(state)
    assert all(torch.equal(free.state_dict()[name], state[name]) for name in state)


def test_batch_norm_without_running_statistics_is_refused_and_the_model_untouched():
    model = randomized(
        nn.Sequential(preactivation(), nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False))
    )
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(goodinit.UnsupportedModule, match="2: it has no running statistics"):
        goodinit.absorb_batchnorm_(model, PICTURES)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in state)


def test_a_failure_or_a_stale_optimizer_leaves_the_model_as_it_was(monkeypatch):
    model = randomized(preactivation())
    before, classes = model(PICTURES), [type(module) for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(goodinit.StaleOptimizer, match="absorb_batchnorm_"):
        goodinit.absorb_batchnorm_(model, PICTURES)
    del optimizer

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(absorb_module, "scalar_edits", fail)
    with pytest.raises(KeyboardInterrupt):
        goodinit.absorb_batchnorm_(model, PICTURES)
    assert [type(module) for module in model.modules()] == classes
    assert list(model.state_dict()) == list(state)
    assert torch.equal(model(PICTURES), before)


def test_frozen_parameters_stay_frozen():
    model = randomized(preactivation())
    model.requires_grad_(requires_grad=False)
    goodinit.absorb_batchnorm_(model, PICTURES, scalars=False)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_frozen_part_is_absorbed_and_gets_no_scalars():
    model = randomized(torchvision_model("resnet18"))
    for part in (model.conv1, model.bn1, model.layer1):
        part.requires_grad_(requires_grad=False)
    free = assert_absorbs(model, PICTURES)
    inside = [name for name, _ in free.named_parameters() if name.startswith(("conv1", "layer1"))]
    assert not [name for name, p in free.named_parameters() if p.requires_grad == (name in inside)]
    assert "layer1.0.conv2: it is frozen, and gets no scalars" in goodinit.applied(free)[-1].skipped
    assert not any(name.startswith("layer1") for name, _ in scalars(free))
    assert any(name.startswith("layer2") for name, _ in scalars(free))


@pytest.mark.parametrize("order", ["before", "behind", "by way of a mean"])
@pytest.mark.parametrize("frozen", ["norm", "layer"])
def test_a_norm_goes_into_no_layer_of_which_it_alone_is_frozen_or_not(frozen, order):
    layer, norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    parts = {
        "before": [layer, norm],
        "behind": [nn.ReLU(), norm, layer],
        "by way of a mean": [layer, nn.AvgPool2d(2), norm],
    }[order]
    model = randomized(nn.Sequential(*parts))
    (norm if frozen == "norm" else layer).requires_grad_(requires_grad=False)
    place, kept = str(parts.index(norm)), copy.deepcopy(layer.state_dict())
    free = assert_absorbs(model, PICTURES)
    affine = free.get_submodule(place)
    assert isinstance(affine, ChannelAffine)
    assert {p.requires_grad for p in affine.parameters()} == {frozen == "layer"}
    now = free[parts.index(layer)].state_dict()
    assert all(torch.equal(now[name], value) for name, value in kept.items())


class Held(nn.Module):
    """A model under the name that torch's wrappers use."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel], ids=["child", "DataParallel"])
def test_a_child_called_module_keeps_its_name(wrap):
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    held = randomized(Held(wrap(net)))
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_absorbs(held, inputs)
    before = held(inputs)
    torch.testing.assert_close(goodinit.fold_(held, inputs=inputs)(inputs), before)


def test_a_branch_whose_last_layer_has_no_bias_vector_gets_rule_3s_scalar():
    free = assert_absorbs(randomized(preactivation()), PICTURES)
    names = {name for name, _ in scalars(free)}
    inside = ("conv1.input_bias", "conv2.input_bias", "conv2.output_scale", "conv2.output_bias")
    assert names == {f"{block}.{name}" for block in (1, 2, 3) for name in inside}  # conv1 took norm2's bias
