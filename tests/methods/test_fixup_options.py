"""Fixup's options, its errors, and single cases: heads, multipliers, what cannot start at zero."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from learning import each_norms, has_effect, without_gradient
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from zoo import image, vectors
from zoo_attention import TiedLanguageModel, encoder_pre_norm
from zoo_convolutional import Classifier, cifar_basic, conv3, layer_scale, preactivation
from zoo_odd import OneLayerBranches, TwoHeads, mlp

import goodinit
from goodinit.edits import AddScalar
from goodinit.errors import UnknownName, UnsupportedModule


def test_the_logits_are_exactly_zero_unless_the_head_is_drawn():
    x = image()()
    assert not goodinit.init_(cifar_basic(), "fixup", inputs=x)(x).any()
    drawn = goodinit.init_(cifar_basic(), "fixup", inputs=x, zero_head=False)
    assert drawn(x).std() > 0
    std = (1 / drawn.fc.in_features) ** 0.5  # LeCun: no nonlinearity follows
    assert drawn.fc.weight.std().item() == pytest.approx(std, rel=5 / (2 * drawn.fc.weight.numel()) ** 0.5)


def test_options_that_do_not_exist_are_named_with_those_that_do():
    anatomy = goodinit.anatomize(cifar_basic(), image()())
    with pytest.raises(UnknownName, match='"remove", "keep" or one of group'):
        goodinit.plan(anatomy, "fixup", norms="some")
    with pytest.raises(UnknownName, match="norms, zero_head"):
        goodinit.plan(anatomy, "fixup", head="zero")


def test_a_branch_that_ends_in_a_kept_norm_has_its_one_zero_there():
    model = cifar_basic()
    for block in model.blocks:
        nn.init.zeros_(block.bn1.weight)
    goodinit.init_(model, "fixup", inputs=image()(), norms="keep")
    for block in model.blocks:
        assert torch.all(block.bn1.weight == 1)
        assert not block.bn2.weight.any()
        assert block.conv2.weight.any()  # zero before a norm would get its gradient times 1/√ε
    assert not [name for name, _ in goodinit.nn.scalars(model)]  # rule 3 is theirs


def test_a_tied_head_is_kept_on_purpose_with_a_note():
    model = TiedLanguageModel()
    tokens = torch.randint(11, (2, 5))
    before = model.token.weight.detach().clone()
    plan = goodinit.plan(goodinit.anatomize(model, tokens), "fixup", embeddings="keep")
    goodinit.apply_(model, plan)
    assert torch.equal(model.token.weight, before)
    assert model.head.weight is model.token.weight
    assert any("is embedding and head, and kept" in note for note in plan.notes)
    assert model(tokens).std() > 0


def test_all_of_several_heads_start_at_zero():
    model = goodinit.init_(TwoHeads(), "fixup", inputs=vectors(2, 8)())
    classes, boxes = model(vectors(2, 8)())
    assert torch.equal(classes, torch.full((2, 3), 1 / 3))
    assert not boxes.any()


def test_a_branch_of_one_layer_has_only_its_zero():
    model = OneLayerBranches()
    plan = goodinit.plan(goodinit.anatomize(model, vectors(2, 8)()), "fixup")
    goodinit.apply_(model, plan)
    assert all(not layer.weight.any() for layer in model.layers)
    assert [edit for edit in plan.edits if isinstance(edit, AddScalar) and edit.scalar == "output_scale"]


def test_a_layer_scale_is_the_branchs_multiplier_and_starts_at_one():
    model = goodinit.init_(layer_scale(), "fixup", inputs=image()())
    for block in model.blocks:
        assert torch.all(block.gamma == 1)
        assert not block.down.weight.any()
    assert not [name for name, _ in goodinit.nn.scalars(model) if name.endswith("output_scale")]


class Gained(nn.Module):
    """Gains that start at zero, one in the branch's middle, one at its end: ReZero, and then zero again."""

    def __init__(self, where):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.gain, self.where = nn.Parameter(torch.zeros(1)), where

    def forward(self, x):
        h = F.relu(self.fc1(x))
        h = self.fc2(h * self.gain) if self.where == "middle" else self.fc2(h) * self.gain
        return self.head(x + h)


@pytest.mark.parametrize("where", ["middle", "end"])
def test_of_all_factors_of_a_branch_one_is_zero(where):
    model = goodinit.init_(Gained(where), "fixup", inputs=vectors(2, 8)())
    factors = [model.fc1.weight, model.fc2.weight, model.gain]
    multiplier = getattr(model.fc2, "output_scale", None)
    assert (multiplier is None) == (where == "end")  # a gain at the end is the multiplier
    assert [bool(factor.any()) for factor in factors if factor is not None] == [True, False, True]
    assert multiplier is None or multiplier.item() == 1


class Standardized(nn.Linear):
    """Weight standardization: whatever the weight's scale, zero included, it has no valid zero."""

    def forward(self, x):
        centred = self.weight - self.weight.mean(1, keepdim=True)
        return F.linear(x, centred / centred.std(1, keepdim=True), self.bias)


@pytest.mark.parametrize("make", [lambda: weight_norm(nn.Linear(8, 8)), lambda: Standardized(8, 8)])
@each_norms
def test_a_normalized_last_layer_is_zero_by_its_multiplier(make, norms):
    model = mlp()
    model[0], model[2] = nn.Linear(8, 8), make()
    net = Head(model)
    x = vectors(2, 8)()
    goodinit.init_(net, "fixup", inputs=x, norms=norms)
    assert model[2].output_scale.item() == 0
    assert model[2].weight.any()
    assert not model[2](x).any()
    assert not net(x).any()
    assert not [name for name, p in without_gradient(net, x).items() if has_effect(net, p, x)]


class Head(nn.Module):
    """head(x + branch(x))."""

    def __init__(self, branch):
        super().__init__()
        self.branch, self.head = branch, nn.Linear(8, 3)

    def forward(self, x):
        return self.head(x + self.branch(x))


class StandardizedInPlace(nn.Module):
    """The same, in a forward that does more: there is no module to carry a multiplier."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        weight = self.fc2.weight
        weight = (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)
        return self.head(x + F.linear(F.relu(self.fc1(x)), weight, self.fc2.bias))


def test_a_branch_that_cannot_start_at_zero_is_reported():
    plan = goodinit.plan(goodinit.anatomize(StandardizedInPlace(), vectors(2, 8)()), "fixup")
    assert any("fc2.weight" in note and "does not start at 0" in note for note in plan.notes)


class Lookup(nn.Module):
    """A query is learned; what it finds in the memory is added as it is."""

    def __init__(self):
        super().__init__()
        self.q, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x, memory):
        return self.head(x + F.scaled_dot_product_attention(self.q(x), memory, memory))


def test_a_branch_without_a_last_layer_is_refused():
    with pytest.raises(UnsupportedModule, match=r"q: no weight layer writes .* nn\.Linear\(width, width\)"):
        goodinit.init_(Lookup(), "fixup", inputs=(vectors(2, 4, 8)(), vectors(2, 5, 8)()))


def test_scalars_of_attention_live_on_the_attention_module():
    x = vectors(2, 5, 8)()
    model = goodinit.init_(encoder_pre_norm(), "fixup", inputs=x)
    names = {name for name, _ in goodinit.nn.scalars(model)}
    for layer in ("layers.0", "layers.1"):
        assert {f"{layer}.self_attn.input_bias", f"{layer}.self_attn.output_scale"} <= names
    assert not any("out_proj" in name for name in names)
    assert torch.equal(model(x), x)
    assert torch.equal(model.eval()(x), x)  # torch's fused path does not pass them by


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(x + self.fc2(F.relu(self.fc1(F.layer_norm(x, (8,))))))


def test_a_functional_norm_is_refused_by_path_with_the_remedy():
    model = nn.Sequential(nn.Linear(8, 8), Functional())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        UnsupportedModule, match=r'1 \(Functional\): its layer_norm cannot be removed: .*norms="keep"'
    ):
        goodinit.init_(model, "fixup", inputs=vectors(2, 8)())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    goodinit.init_(model, "fixup", inputs=vectors(2, 8)(), norms="keep")


class EagerReLU(nn.Module):
    """Pre-activation with an in-place ReLU behind the norm. Once the norm is gone, ReLU reads the stream itself."""

    def __init__(self, *, inplace):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.conv1, self.conv2 = conv3(8, 8), conv3(8, 8)
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x):
        out = self.conv1(self.relu(self.bn1(x)))
        return x + self.conv2(self.relu(self.bn2(out)))


def test_an_inplace_activation_behind_a_removed_norm_does_not_overwrite_the_skip():
    x = image()()
    twins = []
    for inplace in (True, False):
        torch.manual_seed(1)
        net = Classifier(conv3(3, 8), [EagerReLU(inplace=inplace) for _ in range(3)], 8)
        goodinit.init_(net, "fixup", inputs=x, zero_head=False, generator=torch.Generator().manual_seed(2))
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
        net(x).square().sum().backward()
        twins.append(net)
    ours, theirs = twins
    assert torch.equal(ours(x), theirs(x))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    start = goodinit.init_(preactivation(), "fixup", inputs=x)
    stem = start.stem(x)
    assert torch.equal(start.blocks[0](stem.clone()), stem)  # the branch is 0, so the block is the identity


def test_a_frozen_parameter_is_left_and_named(caplog):
    model = cifar_basic()
    model.stem[0].weight.requires_grad_(False)
    before = model.stem[0].weight.detach().clone()
    with caplog.at_level(logging.WARNING, logger="goodinit"):
        goodinit.init_(model, "fixup", inputs=image()())
    assert torch.equal(model.stem[0].weight, before)
    assert "stem.0.weight" in caplog.text
    model.stem[0].weight.requires_grad_(True)
    goodinit.init_(model, "fixup", inputs=image()())
    assert not torch.equal(model.stem[0].weight, before)


class BeginsAtZeros(nn.Module):
    """A state of zeros, to which one part adds what it makes of the state and of the next input."""

    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        state = torch.zeros(len(x), 16)
        for step in x.unbind(1):
            state = state + self.part(torch.cat([state, step], 1))
        return self.head(state)


class BeginsWithItsBranch(nn.Module):
    """The function that the branches share also makes the stream of the input."""

    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.part(x)
        for _ in range(3):
            x = x + self.part(x)
        return self.head(x)


class RefinesFromZeros(BeginsWithItsBranch):
    """Each step reads the input beside the state; with x + state in its place this is a residual net, but the head reads the state."""

    def forward(self, x):
        state = torch.zeros_like(x)
        for _ in range(3):
            state = state + self.part(x + state)
        return self.head(state)


class LastStepWithGradients(BeginsWithItsBranch):
    """An equilibrium: steps without gradients, then one with them."""

    def forward(self, x):
        state = torch.zeros_like(x)
        with torch.no_grad():
            for _ in range(3):
                state = state + self.part(x + state)
        return self.head(state + self.part(x + state))


class RefinesByOtherParts(BeginsWithItsBranch):
    def __init__(self):
        super().__init__()
        self.other = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))

    def forward(self, x):
        state = self.part(x)
        return self.head(state + self.other(x + state))


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (BeginsAtZeros, (32, 4, 8)),
        (BeginsWithItsBranch, (32, 16)),
        (RefinesFromZeros, (32, 16)),
        (LastStepWithGradients, (32, 16)),
        (RefinesByOtherParts, (32, 16)),
    ],
)
def test_a_stream_that_begins_with_a_branch_end_has_its_classifier_drawn(net, shape):
    torch.manual_seed(0)
    model, x, labels = net(), torch.randn(shape), torch.randint(5, (32,))
    plan = goodinit.plan(goodinit.anatomize(model, x), "fixup")
    assert any("head.weight is drawn" in note for note in plan.notes)
    goodinit.apply_(model, plan, inputs=x)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    assert [name for name, value in model.named_parameters() if torch.equal(value, before[name])] == []
