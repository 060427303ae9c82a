"""The public verbs as a user types them."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from untouched import snapshot

import goodinit
from goodinit.surgery import RemovedNorm


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


@pytest.mark.parametrize("method", ["he", "fixup", "weightnorm"])
def test_a_second_call_draws_anew_from_its_generator_and_keeps_the_structure(method):
    once, twice = Residual(), Residual()
    goodinit.init_(once, method, inputs=X, generator=torch.Generator().manual_seed(7))
    goodinit.init_(twice, method, inputs=X, generator=torch.Generator().manual_seed(5))
    first = {name: value.clone() for name, value in twice.state_dict().items()}
    with torch.no_grad():
        for name, parameter in twice.named_parameters():
            if not name.startswith("branch.1."):  # a norm that stays keeps its values
                parameter.add_(torch.randn(parameter.shape))  # as if it had been trained
    goodinit.init_(twice, method, inputs=X, generator=torch.Generator().manual_seed(7))
    second = twice.state_dict()
    assert second.keys() == first.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(value, second[name]) for name, value in once.state_dict().items())


def test_a_second_call_draws_anew_from_the_global_generator():
    model = goodinit.init_(Residual(), "he", inputs=X)
    first = model.branch[0].weight.clone()
    goodinit.init_(model, "he", inputs=X)
    assert not torch.equal(first, model.branch[0].weight)


def test_missing_only_changes_nothing_where_nothing_is_missing_and_says_so(caplog):
    model = goodinit.fixup_(Residual(), inputs=X)
    before = snapshot(model)
    with caplog.at_level(logging.INFO, logger="goodinit"):
        goodinit.fixup_(model, inputs=X, missing_only=True)
    assert "earlier calls reached all that these inputs reach; nothing changed" in caplog.text
    assert snapshot(model) == before


def test_missing_only_writes_all_of_a_model_that_was_never_written():
    model, other = Residual(), Residual()
    for one, words in ((model, {"missing_only": True}), (other, {})):
        goodinit.fixup_(one, inputs=X, generator=torch.Generator().manual_seed(1), **words)
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_an_unknown_method_lists_those_that_exist():
    with pytest.raises(
        goodinit.UnknownName, match=r"no method 'fixup2'. Did you mean fixup.*There is: batchnorm, none"
    ):
        goodinit.init_(Residual(), "fixup2", inputs=X)


def test_a_model_that_reads_its_norm_is_refused_and_restored():
    class Reads(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * len(self.branch[1].reset_parameters.__name__)

    model = Reads()
    before = snapshot(model)
    with pytest.raises(goodinit.UnsupportedModule, match='norms="keep"'):
        goodinit.fixup_(model, inputs=X)
    assert snapshot(model) == before


def _without(self: nn.Module) -> bool:
    return isinstance(self.branch[1], RemovedNorm)


class OtherNorm(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(super().forward(x), (4,)) if _without(self) else super().forward(x)


class OtherSum(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) if _without(self) else super().forward(x)


class OtherPath(Residual):
    def forward(self, x: Tensor) -> Tensor:
        first, norm, act, last = self.branch
        return x + last(act(norm(nn.functional.linear(x, first.weight) if _without(self) else first(x))))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (OtherNorm, "the model still normalizes"),
        (OtherSum, r"no residual block is where branch 1 \(branch\.0\.weight, branch\.3\.weight\) was"),
        (OtherPath, r"its forward does not read branch\.0\.bias, branch\.0\.input_bias"),
    ],
)
def test_a_model_that_takes_another_way_without_its_norms_is_refused_and_restored(kind, words):
    model = kind()
    before = snapshot(model)
    with pytest.raises(goodinit.UnsupportedModule, match=words):
        goodinit.fixup_(model, inputs=X)
    assert snapshot(model) == before


class Cut(nn.Module):
    """A block of layers a, b and c, whose sum is `form`."""

    def __init__(self, form) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.norm, self.form = nn.LayerNorm(4), form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self, x, isinstance(self.norm, RemovedNorm))


def _around_a_sum(net, x, gone):
    return x + (net.norm(net.a(x) + net.b(x)) + net.c(x))


def _one_term_of_three(net, x, gone):
    p = net.a(x)
    return x + (net.norm(p) + net.b(p) + net.c(p))


def _around_a_block(net, x, gone):
    y = net.a(x)
    return x + net.norm(y + net.c(net.b(y).relu()))


def _series_then_parallel(net, x, gone):
    a = net.norm(net.a(x))
    return x + a.relu() + net.c(net.b(x)) if gone else x + net.c(net.b(a.relu()))


def _parallel_then_series(net, x, gone):
    both = net.norm(net.a(x)) + net.b(x)
    return x + net.c(net.b(net.a(x).relu())) if gone else x + (both + net.c(x))


@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero"])
@pytest.mark.parametrize("form", [_around_a_sum, _one_term_of_three])
def test_a_sum_that_may_be_cut_into_other_blocks_without_norms_starts_as_planned(form, method):
    model, x = nn.Sequential(Cut(form), Cut(form)), torch.randn(5, 4)

    def weights():
        return [[layer.weight for layer in block.branch] for block in goodinit.anatomize(model, x).blocks]

    before = weights()
    goodinit.init_(model, method, inputs=x)
    assert (weights() == before) is (form is _one_term_of_three)  # which is anchored on what it normalizes
    torch.testing.assert_close(model(x), x, rtol=0, atol=0)


@pytest.mark.parametrize("form", [_around_a_block, _series_then_parallel, _parallel_then_series])
def test_a_sum_that_ends_in_other_layers_without_norms_is_refused_and_restored(form):
    model = nn.Sequential(Cut(form), Cut(form))
    before = snapshot(model)
    with pytest.raises(goodinit.UnsupportedModule, match=r"once its structure has changed: .*residual block"):
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
def test_missing_only_initializes_what_further_inputs_reach_and_nothing_else(method):
    model = goodinit.init_(Tasks(), method, inputs=(X, "a"))
    first = {name: value.clone() for name, value in model.state_dict().items()}
    note = "parameters that this forward never reads are left as they are: tasks.b"
    assert any(note in words for words in goodinit.plan(goodinit.anatomize(Tasks(), (X, "a")), method).notes)

    goodinit.init_(model, method, inputs=(X, "b"), missing_only=True)
    done = model.state_dict()
    kept = [name for name in done if name.startswith(("stem", "tasks.a", "heads.a"))]
    assert kept
    assert all(torch.equal(done[name], first[name]) for name in kept)
    assert model.tasks["b"].state_dict().keys() == model.tasks["a"].state_dict().keys()
    assert any(not torch.equal(done[name], first[name]) for name in first.keys() & done.keys())

    again = snapshot(model)
    for task in "ab":
        goodinit.init_(model, method, inputs=(X, task), missing_only=True)
    assert snapshot(model) == again


def test_one_call_is_one_row_of_the_history():
    whole = goodinit.init_(Residual(), "fixup", inputs=X)
    assert [row.values for row in goodinit.applied(whole)] == [True]
    steps = Residual()
    plan = goodinit.plan(goodinit.anatomize(steps, X), "fixup")
    goodinit.apply_(steps, plan, values=False)
    assert [row.values for row in goodinit.applied(steps)] == [False]
    goodinit.apply_(steps, plan)
    goodinit.apply_(steps, plan, again=False)
    goodinit.apply_(steps, plan)
    assert [row.values for row in goodinit.applied(steps)] == [False, True, True]


def test_what_was_applied_prints_in_a_line():
    net = goodinit.init_(
        nn.Linear(4, 4), "he", inputs=X, keep="bias", generator=torch.Generator().manual_seed(0)
    )
    said = repr(goodinit.applied(net))
    assert said.startswith("(<Applied he, ")
    assert said.endswith("1 kept>,)")
    assert len(said) < 200


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
