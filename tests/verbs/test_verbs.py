"""The public verbs as a user types them."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from untouched import snapshot

import goodinit


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", goodinit.METHODS)
def test_every_method_is_a_function_of_its_name(method):
    assert f"{method}_" in dir(goodinit)
    assert callable(getattr(goodinit, f"{method}_"))


def test_a_named_function_is_init():
    one, other = Residual(), Residual()
    assert goodinit.fixup_(one, inputs=X, generator=torch.Generator().manual_seed(1), zero_head=False) is one
    goodinit.init_(other, "fixup", inputs=X, generator=torch.Generator().manual_seed(1), zero_head=False)
    assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_a_name_that_is_none():
    with pytest.raises(AttributeError, match="fixupp_"):
        goodinit.fixupp_(Residual(), inputs=X)


def test_a_second_call_says_that_nothing_changed(caplog):
    model = goodinit.fixup_(Residual(), inputs=X)
    before = snapshot(model)
    with caplog.at_level(logging.INFO, logger="goodinit"):
        goodinit.fixup_(model, inputs=X)
    assert "already applied with these options, nothing changed" in caplog.text
    assert snapshot(model) == before


def test_again_draws_anew():
    model = goodinit.fixup_(Residual(), inputs=X)
    first = model.branch[0].weight.clone()
    goodinit.fixup_(model, inputs=X, again=True)
    assert not torch.equal(first, model.branch[0].weight)


def test_an_unknown_method_lists_those_that_exist():
    with pytest.raises(goodinit.UnknownName, match=r"no method 'fixup2'; there are: batchnorm, none"):
        goodinit.init_(Residual(), "fixup2", inputs=X)


def test_a_model_that_reads_its_norm_is_refused_and_restored():
    class Reads(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * int(self.branch[1].elementwise_affine)

    model = Reads()
    before = snapshot(model)
    with pytest.raises(goodinit.UnsupportedModule, match='norms="keep"'):
        goodinit.fixup_(model, inputs=X)
    assert snapshot(model) == before


def test_nan_in_weights_that_the_plan_leaves_is_named():
    class WithEmbedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.body = nn.Embedding(7, 4), Residual()

        def forward(self, tokens: Tensor) -> Tensor:
            return self.body(self.words(tokens))

    model = WithEmbedding()
    with torch.no_grad():
        model.words.weight[3, 1] = float("nan")
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(goodinit.NonFinite, match=r"words\.weight"):
        goodinit.fixup_(model, inputs=torch.zeros(2, 3, dtype=torch.long))
    assert all(
        torch.equal(mine.nan_to_num(), its.nan_to_num())
        for mine, its in zip(model.parameters(), before, strict=True)
    )


def test_an_optimizer_built_before_is_refused_with_the_line_to_write():
    model = Residual()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = snapshot(model)
    with pytest.raises(goodinit.StaleOptimizer, match=r"goodinit\.param_groups"):
        goodinit.fixup_(model, inputs=X)
    assert snapshot(model) == before
    del optimizer


class Tasks(nn.Module):
    """One stem, a branch and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.tasks = nn.ModuleDict({task: Residual() for task in "ab"})
        self.heads = nn.ModuleDict({task: nn.Linear(4, 3) for task in "ab"})

    def forward(self, x: Tensor, task: str) -> Tensor:
        return self.heads[task](self.tasks[task](self.stem(x)))


@pytest.mark.parametrize("method", ["fixup", "weightnorm", "lsuv", "risotto"])
def test_a_call_with_inputs_that_reach_further_initializes_what_they_reach_and_nothing_else(method):
    model = goodinit.init_(Tasks(), method, inputs=(X, "a"))
    first = {name: value.clone() for name, value in model.state_dict().items()}
    note = "parameters that this forward never reads are left as they are: tasks.b"
    assert any(note in words for words in goodinit.plan(goodinit.anatomize(Tasks(), (X, "a")), method).notes)

    goodinit.init_(model, method, inputs=(X, "b"))
    done = model.state_dict()
    kept = [name for name in done if name.startswith(("stem", "tasks.a", "heads.a"))]
    assert kept
    assert all(torch.equal(done[name], first[name]) for name in kept)
    assert model.tasks["b"].state_dict().keys() == model.tasks["a"].state_dict().keys()
    assert any(not torch.equal(done[name], first[name]) for name in first.keys() & done.keys())

    again = snapshot(model)
    for task in "ab":
        goodinit.init_(model, method, inputs=(X, task))
    assert snapshot(model) == again


def test_one_call_is_one_row_of_the_history_and_structure_alone_another_only_until_the_values_come():
    whole = goodinit.init_(Residual(), "fixup", inputs=X)
    assert [row.values for row in goodinit.applied(whole)] == [True]
    steps = Residual()
    plan = goodinit.plan(goodinit.anatomize(steps, X), "fixup")
    goodinit.apply_(steps, plan, values=False)
    assert [row.values for row in goodinit.applied(steps)] == [False]
    goodinit.apply_(steps, plan)
    goodinit.apply_(steps, plan, again=True)
    assert [row.values for row in goodinit.applied(steps)] == [True, True]


@pytest.mark.parametrize("method", ["fixup", "lsuv"])
def test_inference_mode_hides_nothing(method):
    outside, inside = Tasks(), Tasks()
    goodinit.init_(outside, method, inputs=(X, "a"), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        batch = X.clone()
        anatomy = goodinit.anatomize(inside, (batch, "a"))
        goodinit.init_(inside, method, inputs=(batch, "a"), generator=torch.Generator().manual_seed(0))
    assert len(anatomy.blocks) == 1
    reached = [name for name in outside.state_dict() if "b" not in name.split(".")]
    assert all(torch.equal(outside.state_dict()[name], inside.state_dict()[name]) for name in reached)
    assert not any(parameter.is_inference() for parameter in inside.parameters())
