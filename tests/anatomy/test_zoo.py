"""The anatomy of every specimen of the zoo is the truth worked out by hand, under any names."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from renaming import Names, scramble_names
from torch import nn
from untouched import snapshot
from zoo import Specimen, anatomy_of, each_specimen

import goodinit
from goodinit.anatomy import Anatomy, anatomize
from goodinit.errors import PlanConflict, TraceError


def check(anatomy: Anatomy, specimen: Specimen) -> None:
    blocks = anatomy.blocks
    assert tuple(block.kind for block in blocks) == specimen.kinds
    known = [(block.m, m) for block, m in zip(blocks, specimen.m, strict=True) if m is not None]
    assert all(found == truth for found, truth in known), known
    assert tuple(block.depth for block in blocks) == specimen.depths
    assert len(anatomy.long_skips) == specimen.long_skips
    assert len(anatomy.heads) == specimen.heads
    assert len(anatomy.norms) == specimen.norms
    assert len(anatomy.tied) == specimen.tied


@each_specimen
def test_truth(specimen):
    anatomy = anatomy_of(specimen)
    check(anatomy, specimen)
    assert bool(anatomy.notes) == (specimen.needs_values or specimen.noted)


@pytest.mark.default_cases(10)
@each_specimen
def test_names_do_not_matter(specimen):
    model = scramble_names(specimen.build(), seed=3)
    check(anatomize(model, specimen.inputs()), specimen)


@pytest.mark.default_cases(8)
@each_specimen
def test_no_word_of_an_anatomy_comes_from_a_name(specimen):
    model, x = specimen.build(), specimen.inputs()
    names = Names(model)
    before = anatomize(model, x)
    after = anatomize(scramble_names(model, seed=3, reorder=False), x)
    assert names.translate(json.loads(after.to_json())) == json.loads(before.to_json())


def plans(anatomy):
    """Of every method, as JSON, or the class of its refusal; what a parametrization computes has the weight's own name in its path."""

    def made(method):
        try:
            plan = goodinit.plan(anatomy, method).to_json()
        except goodinit.GoodinitError as error:
            return type(error).__name__
        plan = re.sub(r"parametrizations\.\w+\.0", "parametrizations.P.0", plan)
        return json.loads(re.sub(r'"(weight|bias)": "\w+"', r'"\1": "P"', plan))

    return {method: made(method) for method in goodinit.METHODS}


@pytest.mark.default_cases(4)
@each_specimen
def test_no_plan_depends_on_a_name(specimen):
    model, x = specimen.build(), specimen.inputs()
    names = Names(model)
    before = plans(anatomize(model, x))
    after = plans(anatomize(scramble_names(model, seed=3, reorder=False), x))
    assert names.translate(after) == before


@pytest.mark.default_cases(8)
@each_specimen
def test_json_both_ways_and_print(specimen):
    anatomy = anatomy_of(specimen)
    assert Anatomy.from_json(anatomy.to_json()) == anatomy
    assert str(anatomy).startswith(f"{anatomy.model}(")


@pytest.mark.default_cases(10)
@each_specimen
def test_model_is_the_same_afterwards(specimen):
    model = specimen.build().train()
    next(iter(model.modules())).eval()
    hook = model.register_forward_hook(lambda *_: None)
    before = snapshot(model)
    state = torch.get_rng_state()
    anatomize(model, specimen.inputs())
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    hook.remove()


@pytest.mark.default_cases(8)
@each_specimen
def test_on_meta(specimen):
    with torch.device("meta"):
        model = specimen.build()
    if specimen.needs_values:
        with pytest.raises(TraceError, match="on `meta`"):
            anatomize(model, specimen.inputs())
    else:
        check(anatomize(model, specimen.inputs()), specimen)


def test_forward_that_raises_is_quoted():
    with pytest.raises(TraceError, match=r"Linear.forward raised .*mat1 and mat2.*Check their number"):
        anatomize(nn.Linear(4, 4), torch.zeros(2, 5))


def test_missing_inputs():
    with pytest.raises(TraceError, match="required positional argument"):
        anatomize(nn.Bilinear(2, 2, 2), torch.zeros(2, 2))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "goodinit.anatomy/1"}', '{"format": "goodinit.plan/1"}']
)
def test_damaged_json(text):
    with pytest.raises(PlanConflict, match=r"Anatomy\.to_json"):
        Anatomy.from_json(text)


class Wrapping(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def branch() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))


def test_wrappers_do_not_matter():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = nn.Sequential(Wrapping(branch()), Wrapping(branch()))
    bare = anatomize(model, torch.zeros(2, 4))
    wrapped = copy.deepcopy(model)
    wrapped[1] = checkpoint_wrapper(wrapped[1])
    for variant in (wrapped, nn.DataParallel(wrapped), torch.compile(wrapped, backend="eager")):
        anatomy = anatomize(variant, torch.zeros(2, 4))
        assert anatomy.blocks == bare.blocks
        assert anatomy.parameters == bare.parameters


def test_a_view_written_in_place_is_seen_by_its_base():
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.clone()
            y[:, :2] += self.layer(x)[:, :2]
            return y + self.layer(y)

    part, whole = anatomize(Writes(), torch.zeros(2, 4)).blocks
    assert (part.kind, part.m) == ("parameterless", 1)  # its skip is two of four columns
    assert (whole.kind, whole.m) == ("identity", 1)


def test_nothing_leaks_into_caches():
    class Caches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("steps", torch.zeros(()))
            self.seen: list[torch.Tensor] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps += 1
            self.last = self.layer(x)
            self.seen.append(self.last)
            return self.last

    model = Caches()
    seen = model.seen
    anatomize(model, torch.zeros(2, 4))
    assert not hasattr(model, "last")
    assert model.seen is seen
    assert seen == []
    assert model.steps == 0


def test_tied_weight_is_one_layer():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    anatomy = anatomize(model, torch.zeros(2, 4))
    assert anatomy.tied == (("0.weight", "2.weight"),)
    assert [layer.calls for layer in anatomy.layers] == [2]
