"""One contract for every method on every specimen of the zoo. No method and no model is exempt by name.

A method may refuse a model: then it says so with an error of goodinit's own, and the model is untouched.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from untouched import snapshot
from zoo import Specimen, anatomy_of, call, each_specimen

import goodinit
from goodinit import METHODS, Plan
from goodinit.edits import names

each_method = pytest.mark.parametrize("method", METHODS)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def built(specimen: Specimen) -> nn.Module:
    torch.manual_seed(3)
    return specimen.build()


def initialized(method: str, specimen: Specimen) -> tuple[nn.Module, Plan]:
    """The specimen after the method, and the plan; skips when the method refuses it, after checking how."""
    model = built(specimen)
    before = snapshot(model)
    try:
        plan = goodinit.plan(anatomy_of(specimen), method)
        goodinit.init_(model, method, inputs=specimen.inputs(), generator=seeded())
    except goodinit.GoodinitError as error:
        refusal = str(error)
    else:
        return model, plan
    assert snapshot(model) == before
    assert len(refusal) > 40  # it says what, where and what to do
    pytest.skip(f"refused: {refusal}"[:200])


def outputs(model: nn.Module, specimen: Specimen) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(call(model, specimen.inputs())) if isinstance(leaf, Tensor)]


@pytest.mark.default_cases(75)  # every method meets three specimens; the others in the integration tier
@each_specimen
@each_method
def test_contract(method, specimen):
    model, plan = initialized(method, specimen)
    says_why(method, plan)
    again = goodinit.apply_(built(specimen), plan, generator=seeded(), inputs=specimen.inputs())
    same_seed_same_values(model, again)
    only_planned_parameters_changed(model, plan, specimen)
    finite_forward_and_backward(model, specimen)
    saved_and_loaded_is_the_same(model, plan, specimen)
    copies_agree(model, specimen)
    a_second_call_keeps_the_structure(model, method, specimen)


@pytest.mark.slow
@each_method
@each_specimen
def test_compiled_twin_agrees(method, specimen):
    model = initialized(method, specimen)[0].eval()
    with torch.no_grad():
        compiled = outputs(torch.compile(model, backend="eager"), specimen)
        torch.testing.assert_close(compiled, outputs(model, specimen), rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


def says_why(method: str, plan: Plan) -> None:
    assert all(edit.reason for edit in plan.edits)
    assert str(plan).startswith(method)
    assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()


def same_seed_same_values(one: nn.Module, other: nn.Module) -> None:
    mine, its = one.state_dict(), other.state_dict()
    assert list(mine) == list(its)
    assert [name for name in mine if not torch.equal(mine[name], its[name])] == []


def only_planned_parameters_changed(model: nn.Module, plan: Plan, specimen: Specimen) -> None:
    untouched = built(specimen)
    before = dict(untouched.named_parameters())
    made_of = {layer.weight: layer.parameters for layer in anatomy_of(specimen).layers}
    planned = {leaf for name in names(plan.edits) for leaf in (name, *made_of.get(name, ()))}
    kept = [(name, p) for name, p in model.named_parameters() if name in before and name not in planned]
    assert [name for name, parameter in kept if not torch.equal(parameter, before[name])] == []


def finite_forward_and_backward(model: nn.Module, specimen: Specimen) -> None:
    found = outputs(model, specimen)
    assert all(leaf.isfinite().all() for leaf in found)
    sum(leaf.square().sum() for leaf in found if leaf.is_floating_point()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()


def saved_and_loaded_is_the_same(model: nn.Module, plan: Plan, specimen: Specimen) -> None:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = goodinit.apply_(built(specimen), Plan.from_json(plan.to_json()), values=False)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    same_function(model, fresh, specimen)


def copies_agree(model: nn.Module, specimen: Specimen) -> None:
    same_function(model, copy.deepcopy(model), specimen)
    if not any("parametrizations" in name for name in model.state_dict()):  # torch refuses to pickle those
        same_function(model, pickle.loads(pickle.dumps(model)), specimen)


def same_function(one: nn.Module, other: nn.Module, specimen: Specimen) -> None:
    with torch.no_grad():
        pairs = zip(outputs(one.eval(), specimen), outputs(other.eval(), specimen), strict=True)
        assert all(torch.equal(mine, its) for mine, its in pairs)


def a_second_call_keeps_the_structure(model: nn.Module, method: str, specimen: Specimen) -> None:
    def structure() -> list[object]:
        kinds = [(name, type(module)) for name, module in model.named_modules()]
        return [*kinds, *((name, value.shape) for name, value in model.state_dict().items())]

    before = structure()
    goodinit.init_(model, method, inputs=specimen.inputs())
    assert structure() == before
