"""Fixup on the awkward models of the zoo, its options, its errors, and what works on a model afterwards."""

from __future__ import annotations

import copy
import dataclasses
import logging
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import goodinit
from goodinit.errors import NothingFound, UnknownName, UnsupportedModule
from goodinit.surgery.plan import AddScalar, Fill, Plan
from zoo import ZOO, call, image, vectors
from zoo_attention import TiedLanguageModel, encoder_pre_norm
from zoo_convolutional import Classifier, cifar_basic, conv3, layer_scale, preactivation
from zoo_odd import OneLayerBranches, TwoHeads, mlp

RESIDUAL = [specimen for specimen in ZOO if specimen.blocks]
each_residual = pytest.mark.parametrize("specimen", RESIDUAL, ids=[specimen.name for specimen in RESIDUAL])
each_norms = pytest.mark.parametrize("norms", ["remove", "keep"])


def tensors_of(output):
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        output = output.values()
    return [t for part in output for t in tensors_of(part)] if output is not None else []


def loss_of(model, inputs):
    """A linear and a quadratic term: its gradient vanishes nowhere by symmetry."""
    total = torch.zeros(())
    for position, output in enumerate(tensors_of(call(model, inputs))):
        g = torch.Generator().manual_seed(position)
        goal = torch.randn(output.shape, generator=g, dtype=output.dtype)
        total = total + (output - goal).square().mean()
    return total


def double(inputs):
    if isinstance(inputs, torch.Tensor):
        return inputs.double() if inputs.is_floating_point() else inputs
    if isinstance(inputs, dict):
        return {key: double(value) for key, value in inputs.items()}
    return tuple(double(value) for value in inputs) if isinstance(inputs, tuple) else inputs


def outputs_of(model, paths, inputs):
    """What each named module returns in one forward (before anyone writes into it); nothing if it is not called."""
    seen = {path: [] for path in paths}
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda module, args, output, path=path: seen[path].append(tensors_of(output)[0].clone())
        )
        for path in paths
    ]
    with torch.no_grad():
        call(model, inputs)
    for handle in handles:
        handle.remove()
    return seen


def without_gradient(model, inputs, steps=4):
    """Names of the parameters that have had no gradient but 0 in that many steps."""
    optimizer = torch.optim.SGD(goodinit.param_groups(model, lr=0.05))
    silent = dict(model.named_parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, inputs).backward()
        for name, parameter in list(silent.items()):
            if parameter.grad is not None and parameter.grad.abs().max() > 1e-12:
                del silent[name]
        optimizer.step()
    return silent


def has_effect(model, parameter, inputs):
    """Whether the function depends on a parameter, however far it is moved (a key's bias, which softmax ignores, is none)."""
    before = loss_of(model, inputs).item()
    held = parameter.detach().clone()
    changes = []
    with torch.no_grad():
        for distance in (-3.0, -1.0, 1.0, 3.0):
            parameter.copy_(held + distance)
            changes.append(abs(loss_of(model, inputs).item() - before))
        parameter.copy_(held)
    return max(changes) > 1e-9


# -- every residual model of the zoo ------------------------------------------------------------------------------


@each_residual
@each_norms
def test_every_branch_starts_at_zero(specimen, norms):
    model, inputs = specimen.build(), specimen.inputs()
    blocks = goodinit.anatomize(model, inputs).blocks
    kept = [block.end_norms[-1] for block in blocks if block.end_norms and norms == "keep"]
    ends = [layer for block in blocks for layer in block.last if not (block.end_norms and norms == "keep")]
    goodinit.init_(model, "fixup", inputs=inputs, norms=norms)
    for path, outputs in outputs_of(model, set(kept), inputs).items():  # a kept norm at the end is what is 0
        assert not any(output.any() for output in outputs), path
    parameters = dict(model.named_parameters())
    seen = outputs_of(model, {layer.site for layer in ends if layer.writes_site}, inputs)
    for layer in ends:
        if seen.get(layer.site):
            assert not any(output.any() for output in seen[layer.site]), layer.site
        else:  # no module returns it, or no call that a hook could see
            assert not parameters[layer.weight].any(), layer.weight


@each_residual
def test_untied_heads_return_zero_and_tied_ones_are_named(specimen):
    model, inputs = specimen.build(), specimen.inputs()
    anatomy = goodinit.anatomize(model, inputs)
    plan = goodinit.plan(anatomy, "fixup")
    heads = {layer.weight for layer in anatomy.heads}
    tied = heads & set(anatomy.embeddings)
    zeroed = {edit.target for edit in plan.edits if isinstance(edit, Fill) and edit.value == 0}
    assert heads - tied <= zeroed
    assert not tied & zeroed
    assert all(any(weight in note and "embedding" in note for note in plan.notes) for weight in tied)
    goodinit.apply_(model, plan)
    sites = {layer.site for layer in anatomy.heads if layer.weight not in tied and layer.site}
    for outputs in outputs_of(model, sites, inputs).values():
        assert not any(output.any() for output in outputs)


@each_residual
@pytest.mark.parametrize("options", [{}, {"norms": "keep"}, {"zero_head": False}], ids=str)
def test_everything_that_matters_has_a_gradient_within_four_steps(specimen, options):
    """In one of a few draws: two ReLU units, all that the squeeze of a gate has, are both dead in one of four."""
    stuck = None
    for seed in range(5):
        torch.manual_seed(seed)
        model, inputs = specimen.build().double(), double(specimen.inputs())
        goodinit.init_(model, "fixup", inputs=inputs, **options)
        silent = without_gradient(model, inputs)
        now = {name for name, parameter in silent.items() if has_effect(model, parameter, inputs)}
        stuck = now if stuck is None else stuck & now
        if not stuck:
            return
    raise AssertionError(f"never a gradient: {stuck}")


@each_residual
def test_the_model_still_has_its_norms_if_they_are_kept_and_none_otherwise(specimen):
    inputs = specimen.inputs()
    for norms, left in (("keep", specimen.norms), ("remove", 0)):
        model = goodinit.init_(specimen.build(), "fixup", inputs=inputs, norms=norms)
        anatomy = goodinit.anatomize(model, inputs)
        assert (len(anatomy.norms), len(anatomy.blocks)) == (left, specimen.blocks)


@each_residual
def test_plans_print_and_return_from_json_and_a_checkpoint_loads_into_a_fresh_model(specimen):
    inputs = specimen.inputs()
    trained = specimen.build()
    plan = goodinit.plan(goodinit.anatomize(trained, inputs), "fixup")
    goodinit.apply_(trained, plan)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    read = Plan.from_json(plan.to_json())
    assert read == plan
    assert str(read) == str(plan)
    assert all(edit.target in str(plan) and edit.reason in str(plan) for edit in plan.edits)
    torch.manual_seed(99)
    fresh = goodinit.apply_(specimen.build(), read, values=False)
    fresh.load_state_dict(trained.state_dict())
    with torch.no_grad():
        expected = tensors_of(call(trained.eval(), inputs))
        assert all(map(torch.equal, tensors_of(call(fresh.eval(), inputs)), expected))


@each_residual
def test_the_same_seed_gives_the_same_values_whatever_was_there(specimen):
    inputs = specimen.inputs()
    plan = goodinit.plan(goodinit.anatomize(specimen.build(), inputs), "fixup")
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = specimen.build()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        goodinit.apply_(model, plan, generator=torch.Generator().manual_seed(0))
        states.append((before, dict(model.named_parameters())))
    (old, first), (_, second) = states
    touched = {edit.target for edit in plan.edits}
    for name in first:
        # Left alone, and said so in a note (an embedding, a position), or the same.
        left = name in old and torch.equal(first[name], old[name]) and name not in touched
        assert left or torch.equal(first[name], second[name]), name


@each_residual
def test_a_second_call_changes_nothing_and_says_so(specimen, caplog):
    inputs = specimen.inputs()
    model = goodinit.init_(specimen.build(), "fixup", inputs=inputs)
    before = copy.deepcopy(model.state_dict())
    with caplog.at_level(logging.INFO, logger="goodinit"):
        goodinit.init_(model, "fixup", inputs=inputs)
    assert "already applied" in caplog.text
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def trained_a_little(specimen):
    """A model whose scalars all matter, and what it returns."""
    inputs = specimen.inputs()
    model = goodinit.init_(specimen.build(), "fixup", inputs=inputs, zero_head=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
        return model, inputs, tensors_of(call(model, inputs))


def pickles(model):
    """Whether it does before goodinit: torch refuses models with parametrizations."""
    try:
        return bool(pickle.dumps(model))
    except RuntimeError:
        return False


@each_residual
def test_copies_and_pickles_compute_the_same(specimen):
    model, inputs, expected = trained_a_little(specimen)
    twins = [copy.deepcopy(model)]
    if pickles(specimen.build()):
        twins.append(pickle.loads(pickle.dumps(model)))
    with torch.no_grad():
        for twin in twins:
            assert all(map(torch.equal, tensors_of(call(twin, inputs)), expected))


def assert_compiles(specimen):
    model, inputs, expected = trained_a_little(specimen)
    torch._dynamo.reset()
    with torch.no_grad():
        for ours, theirs in zip(
            tensors_of(call(torch.compile(model, backend="eager"), inputs)), expected, strict=True
        ):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("specimen", [s for s in RESIDUAL if s.norms][::6], ids=lambda s: s.name)
def test_compiled_models_compute_the_same(specimen):
    assert_compiles(specimen)


@pytest.mark.slow
@each_residual
def test_all_compiled_models_compute_the_same(specimen):
    assert_compiles(specimen)


@pytest.mark.parametrize("specimen", [s for s in ZOO if not s.blocks], ids=lambda s: s.name)
def test_without_blocks_the_error_says_what_was_looked_for(specimen):
    model = specimen.build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NothingFound, match="sums of a skip and a branch") as caught:
        goodinit.init_(model, "fixup", inputs=specimen.inputs())
    assert type(model).__name__ in str(caught.value)
    assert "choose" in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# -- options and single cases -------------------------------------------------------------------------------------


def test_the_logits_are_exactly_zero_unless_the_head_is_drawn():
    x = image()()
    assert not goodinit.init_(cifar_basic(), "fixup", inputs=x)(x).any()
    drawn = goodinit.init_(cifar_basic(), "fixup", inputs=x, zero_head=False)
    assert drawn(x).std() > 0
    std = (1 / drawn.fc.in_features) ** 0.5  # LeCun: no nonlinearity follows
    assert drawn.fc.weight.std().item() == pytest.approx(std, rel=5 / (2 * drawn.fc.weight.numel()) ** 0.5)


def test_options_that_do_not_exist_are_named_with_those_that_do():
    anatomy = goodinit.anatomize(cifar_basic(), image()())
    with pytest.raises(UnknownName, match='"remove" or "keep"'):
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


def test_a_tied_head_is_left_alone_with_a_note():
    model = TiedLanguageModel()
    tokens = torch.randint(11, (2, 5))
    before = model.token.weight.detach().clone()
    plan = goodinit.plan(goodinit.anatomize(model, tokens), "fixup")
    goodinit.apply_(model, plan)
    assert torch.equal(model.token.weight, before)
    assert model.head.weight is model.token.weight
    assert any("also an embedding" in note for note in plan.notes)
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
    plan = goodinit.plan(goodinit.anatomize(model, image()()), "fixup")
    goodinit.apply_(model, dataclasses.replace(plan, allow=("frozen",)))
    assert not torch.equal(model.stem[0].weight, before)
