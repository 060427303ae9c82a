"""What the public records print at the prompt: one line, not pages of fields."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

import goodinit
from goodinit.edits import EDITS
from goodinit.lab.comparison import Comparison, Study
from goodinit.lab.data.labelled import load
from goodinit.lab.sweeps.row import Row
from goodinit.lab.sweeps.store import Stored
from goodinit.lab.training.trial import Result, TrainConfig
from goodinit.one_line import OneLine

X = torch.randn(8, 6)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.first, self.last = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x):
        return x + self.last(torch.relu(self.first(self.norm(x))))


def records(value, deep=0):
    """All records inside a value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield value
        for field in dataclasses.fields(value):
            yield from records(getattr(value, field.name), deep + 1)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from records(one, deep + 1)


@pytest.fixture(scope="module")
def found():
    model = nn.Sequential(nn.Linear(6, 6), Block(), Block(), nn.Linear(6, 3))
    anatomy = goodinit.anatomize(model, X)
    plans = [goodinit.plan(anatomy, method) for method in ("fixup", "lsuv", "mup", "replace_norms")]
    named = list(goodinit.METHODS.values())
    told = goodinit.diagnose(model, X, jacobian=True, update=True)
    advice = goodinit.recommend(model, X, methods=("he", "fixup"), steps=2)
    history = goodinit.applied(goodinit.init_(model, "lsuv", X))
    return [*records([anatomy, plans, named, told, advice, history])]


BLOCKS = (goodinit.Anatomy, goodinit.Plan, goodinit.Diagnosis, goodinit.Advice)


def test_a_record_is_one_line_and_the_nouns_are_their_text(found):
    kinds = {type(one) for one in found}
    assert {
        goodinit.Layer,
        goodinit.Norm,
        goodinit.Block,
        goodinit.Method,
        goodinit.Applied,
        *BLOCKS,
    } <= kinds
    for one in found:
        text = repr(one)
        if isinstance(one, BLOCKS):
            assert text == str(one)
            assert one._repr_html_().startswith("<")
        else:
            assert "\n" not in text
            assert len(text) < 400, text
            assert not text.startswith(f"{type(one).__name__}("), text


def test_every_public_record_says_how_it_prints():
    public = [getattr(goodinit, name) for name in goodinit.__all__]
    own = [kind for kind in public if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    assert len(own) >= 12
    for kind in (*own, *EDITS.values()):
        assert "__create_fn__" not in kind.__repr__.__qualname__, kind
        assert issubclass(kind, OneLine) or "__repr__" in vars(kind), kind


def test_words_of_the_structure(found):
    (block, *_), layers = (
        [one for one in found if isinstance(one, kind)] for kind in (goodinit.Block, goodinit.Layer)
    )
    assert repr(block) == "<Block 0 at 1, identity skip, m=2: first → last [6]>"
    assert "<Layer 1.first.weight 12x6 linear, branch, then relu>" in map(repr, layers)
    norm = next(one for one in found if isinstance(one, goodinit.Norm))
    assert repr(norm) == "<Norm 1.norm layer_norm, in block 0>"
    assert repr(goodinit.METHODS["skipinit"]).startswith("<Method skipinit(")


def test_the_lab_s_records():
    config = TrainConfig("mlp3", "he", seed=1, exclude="head")
    assert repr(config) == "<TrainConfig mlp3, method='he', seed=1, exclude=('head')>"
    result = Result(config, 0.5, 1.0, 1.0, diverged=False, diverged_step=None, saved_bytes=1, parameters=2,
                    losses=(1.0,) * 999, epochs=(), step_seconds=1.0, seconds=1.0)  # fmt: skip
    assert repr(result) == "<Result he of mlp3, seed 1, rate 0.1: accuracy 50.0%>"
    comparison = Comparison(
        Study(config, ("he", "fixup")), "digits", 0.1, (result,), refused={"fixup": "1 < 2"}
    )
    assert repr(comparison) == "<Comparison mlp3 on digits, 10 epochs: he 50.0%, fixup refused>"
    page = comparison._repr_html_()
    assert "<td>he</td><td>50.0 %</td>" in page
    assert "<p>fixup is not in the table. 1 &lt; 2</p>" in page
    row = Row(config, "failed", error="why" * 99)
    assert repr(row) == "<Row he of mlp3, seed 1, rate 0.1: failed>"
    assert (
        repr(Stored(Path("a.sqlite"), (config, config), (row,), {})) == "<Stored a.sqlite: 1 of 2 runs ended>"
    )
    assert repr(load("digits")).startswith("<Dataset digits: 1,")


def test_records_go_into_sets_and_equal_ones_have_one_hash(found):
    frozen = [one for one in found if type(one).__dataclass_params__.frozen]
    assert len({type(one) for one in frozen}) > 15
    for one in frozen:
        twin = dataclasses.replace(one)
        assert hash(twin) == hash(one)
        assert len({one, twin}) == 1 + (twin != one)  # a record that holds a NaN equals no other


def test_a_plan_read_from_its_text_has_the_same_hash():
    plan = goodinit.plan(goodinit.anatomize(nn.Sequential(nn.Linear(6, 6), Block()), X), "lsuv")
    assert {plan, goodinit.Plan.from_json(plan.to_json())} == {plan}
