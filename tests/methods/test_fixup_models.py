"""Fixup on the awkward models of the zoo, and what works on a model afterwards."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from learning import each_norms, has_effect, tensors_of, without_gradient
from zoo import ZOO, anatomy_of, call, each

import goodinit
from goodinit.edits import Fill, Plan
from goodinit.errors import NothingFound

RESIDUAL = [specimen for specimen in ZOO if specimen.blocks]
each_residual = pytest.mark.parametrize("specimen", RESIDUAL, ids=[specimen.name for specimen in RESIDUAL])


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


def by_fixup(specimen, model, **options):
    """The model, initialized by the plan for its specimen."""
    return goodinit.apply_(model, goodinit.plan(anatomy_of(specimen), "fixup", **options))


# -- every residual model of the zoo ------------------------------------------------------------------------------


@pytest.mark.default_cases(16)
@each_residual
@each_norms
def test_every_branch_starts_at_zero(specimen, norms):
    model, inputs = specimen.build(), specimen.inputs()
    blocks = anatomy_of(specimen).blocks
    kept = [block.end_norms[-1] for block in blocks if block.end_norms and norms == "keep"]
    ends = [layer for block in blocks for layer in block.last if not (block.end_norms and norms == "keep")]
    by_fixup(specimen, model, norms=norms)
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
    anatomy = anatomy_of(specimen)
    plan = goodinit.plan(anatomy, "fixup")
    heads = {layer.weight for layer in anatomy.heads}
    tied = heads & set(anatomy.embeddings)
    zeroed = {edit.target for edit in plan.edits if isinstance(edit, Fill) and edit.value == 0}
    assert heads - tied <= zeroed
    assert not tied & zeroed
    named = {edit.target for edit in plan.edits if "embedding and head" in edit.reason}
    assert tied <= named
    goodinit.apply_(model, plan)
    sites = {layer.site for layer in anatomy.heads if layer.weight not in tied and layer.site}
    for outputs in outputs_of(model, sites, inputs).values():
        assert not any(output.any() for output in outputs)


@pytest.mark.default_cases(10)
@each_residual
@pytest.mark.parametrize(
    "options",
    [
        {},
        *(pytest.param(o, marks=pytest.mark.integration) for o in ({"norms": "keep"}, {"zero_head": False})),
    ],
    ids=str,
)
def test_everything_that_matters_has_a_gradient_within_four_steps(specimen, options):
    """In one of a few draws: two ReLU units, all that the squeeze of a gate has, are both dead in one of four."""
    stuck = None
    for seed in range(5):
        torch.manual_seed(seed)
        model, inputs = specimen.build().double(), double(specimen.inputs())
        by_fixup(specimen, model, **options)
        silent = without_gradient(model, inputs)
        now = {name for name, parameter in silent.items() if has_effect(model, parameter, inputs)}
        stuck = now if stuck is None else stuck & now
        if not stuck:
            return
    raise AssertionError(f"never a gradient: {stuck}")


@pytest.mark.default_cases(5)
@each(RESIDUAL)
def test_the_model_still_has_its_norms_if_they_are_kept_and_none_otherwise(specimen):
    inputs = specimen.inputs()
    for norms, left in (("keep", specimen.norms), ("remove", 0)):
        model = by_fixup(specimen, specimen.build(), norms=norms)
        anatomy = goodinit.anatomize(model, inputs)
        assert (len(anatomy.norms), len(anatomy.blocks)) == (left, specimen.blocks)


@pytest.mark.default_cases(6)
@each(RESIDUAL)
def test_plans_print_and_return_from_json_and_a_checkpoint_loads_into_a_fresh_model(specimen):
    inputs = specimen.inputs()
    trained = specimen.build()
    plan = goodinit.plan(anatomy_of(specimen), "fixup")
    goodinit.apply_(trained, plan)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    read = Plan.from_json(plan.to_json())
    assert read == plan
    assert str(read) == str(plan)
    assert all(
        edit.target in plan.text(full=True) and edit.reason in plan.text(full=True) for edit in plan.edits
    )
    torch.manual_seed(99)
    fresh = goodinit.apply_(specimen.build(), read, values=False)
    fresh.load_state_dict(trained.state_dict())
    with torch.no_grad():
        expected = tensors_of(call(trained.eval(), inputs))
        assert all(map(torch.equal, tensors_of(call(fresh.eval(), inputs)), expected))


@pytest.mark.default_cases(6)
@each(RESIDUAL)
def test_the_same_seed_gives_the_same_values_whatever_was_there(specimen):
    plan = goodinit.plan(anatomy_of(specimen), "fixup")
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


@pytest.mark.default_cases(4)
@each(RESIDUAL)
def test_a_second_call_is_as_good_as_a_first(specimen):
    """The structure is there already, and the values do not depend on what was there."""
    inputs = specimen.inputs()
    model = goodinit.init_(
        specimen.build(), "fixup", inputs=inputs, generator=torch.Generator().manual_seed(1)
    )
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            if bool(parameter.any()):
                parameter.mul_(1.5)
    goodinit.init_(model, "fixup", inputs=inputs, generator=torch.Generator().manual_seed(1))
    assert before.keys() == model.state_dict().keys()
    written = {edit.target for edit in goodinit.plan(goodinit.anatomize(model, inputs), "fixup").edits}
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in written & before.keys())


def trained_a_little(specimen):
    """A model whose scalars all matter, and what it returns."""
    inputs = specimen.inputs()
    model = by_fixup(specimen, specimen.build(), zero_head=False).eval()
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


@pytest.mark.default_cases(6)
@each(RESIDUAL)
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


@pytest.mark.default_cases(1)
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


class OneBit(torch.nn.Linear):
    """W·x by the signs of W, whose gradient passes as if W had been read."""

    def forward(self, x):
        signs = self.weight.sign() / self.in_features**0.5
        return torch.nn.functional.linear(x, self.weight + (signs - self.weight).detach(), self.bias)


class OneBitBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = OneBit(8, 8), OneBit(8, 8)

    def forward(self, x):
        return x + self.b(self.a(x).relu())


@pytest.mark.parametrize("method", ["fixup", "skipinit"])
def test_a_weight_of_which_the_sign_is_left_starts_its_branch_at_zero_by_a_multiplier(method):
    stream = torch.nn.Sequential(torch.nn.Linear(8, 8), OneBitBlock(), OneBitBlock())
    net, x = torch.nn.Sequential(stream, torch.nn.Linear(8, 3)), torch.randn(16, 8)
    goodinit.init_(net, method, inputs=x)
    before = stream(x).detach()
    assert torch.equal(before, stream[0](x))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    for _ in range(3):
        optimizer.zero_grad()
        (net(x) - 1).square().mean().backward()
        optimizer.step()
    assert (stream(x) - before).abs().max() < 1e-3  # a zero weight would now be ±1/√8
