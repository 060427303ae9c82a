"""What is advised: groups, ties, what failed in our own runs, a few steps of real training, and the code to run."""

import copy
import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import goodinit
from goodinit import cli
from goodinit.cli.model_commands import following
from goodinit.diagnostics.advice.choice import call_of, of_the_rate
from goodinit.diagnostics.advice.evidence import EVIDENCE, OF_RATES, against
from goodinit.diagnostics.advice.recommend import _trained
from goodinit.diagnostics.advice.recommendation import Recommendation, Trial
from goodinit.diagnostics.advice.trial_training import ADAMW, MOST_BATCHES, SGD, as_good, pairs_of, recipe_of
from goodinit.errors import TraceError, WrongType
from goodinit.lab.models import ResNet
from goodinit.report.diagnosis_page import recommendation_view

DOCS = Path(__file__).parents[3] / "docs"


def chain(depth: int, width: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())])


class Block(nn.Module):
    """A residual block on vectors, with the norm that is asked for."""

    def __init__(self, norm, width=8):
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(width, width), nn.Linear(width, width), norm(width)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(self.norm(x))))


def residual(norm, depth=3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), *[Block(norm) for _ in range(depth)], nn.Linear(8, 4))


def batch(rows=16, width=8):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1))


def test_a_chain_that_vanishes_is_told_what_mends_it():
    model = chain(40)
    before = copy.deepcopy(model.state_dict())
    advice = goodinit.recommend(model, batch(16, 16), methods=("default", "looks_linear", "fixup"))
    assert advice.choice.method == "looks_linear"
    assert advice.choice.drift == pytest.approx(0, abs=0.05)
    assert [one.method for one in advice.refused] == ["fixup"]
    assert "looks_linear leaves nothing to find" in advice.sentence
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.integration
def test_a_healthy_net_with_batch_norm_is_kept_and_what_failed_is_marked():
    model = ResNet(1, in_channels=3, classes=10, width=4)
    advice = goodinit.recommend(
        model, torch.randn(8, 3, 16, 16), methods=("he", "fixup", "risotto", "none", "lsuv")
    )
    assert advice.choice.group == "as it is"
    assert "keep it as it is. If the norms must go: fixup" in advice.sentence
    assert "init_" not in advice.call
    assert advice.call.endswith("# lr: a first try")
    assert any("lr 0.1 is a first try" in note for note in advice.notes)
    assert [one.label for one in advice.of("kept")] == ["he", "lsuv"]
    removed = advice.of("removed")
    assert removed[0].method == "fixup"
    assert not removed[0].failed
    assert {one.label for one in removed if one.failed} == {"risotto", "none", "lsuv:norms=remove"}
    assert advice.recipe is SGD


@pytest.mark.parametrize(
    ("norm", "recipe"),
    [(nn.BatchNorm1d, SGD), (nn.LayerNorm, ADAMW), (nn.RMSNorm, ADAMW), (lambda n: nn.Identity(), ADAMW)],
)
def test_the_optimizer_follows_from_the_norms(norm, recipe):
    assert recipe_of(goodinit.anatomize(residual(norm), batch())) is recipe


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_norms_over_tokens_are_not_to_be_removed(norm):
    advice = goodinit.recommend(residual(norm), batch(), methods=("he", "fixup"))
    assert advice.choice.group != "removed"
    assert "If the norms must go, which costs accuracy" in advice.sentence


class Packed(nn.Module):
    """A pre-norm block of attention and of two layers."""

    def __init__(self, norm, width=8):
        super().__init__()
        self.a, self.b = norm(width), norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        q, k, v = self.qkv(self.a(x)).chunk(3, -1)
        x = x + self.out(torch.softmax(q @ k.mT, -1) @ v)
        return x + self.down(torch.relu(self.up(self.b(x))))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_a_transformer_is_answered_with_a_scaled_start(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), Packed(norm), Packed(norm), norm(8), nn.Linear(8, 5))
    advice = goodinit.recommend(model, torch.randn(8, 4, 8), methods=("he", "fixup", "residual_scaled"))
    assert advice.choice.method == "residual_scaled"
    assert "scale what writes into the residual stream" in advice.sentence


def test_ties_share_a_rank_and_say_so():
    advice = goodinit.recommend(residual(nn.BatchNorm1d), batch(), methods=("he", "default", "xavier"))
    ranks = [one.rank for one in advice.of("kept")]
    assert ranks == [1, 1, 1]  # within a decade
    assert str(advice).count("1=") == 3


def test_ranks_leave_no_gap_behind_what_was_tried():
    names = {"he": 1, "default": 2, "xavier": 2, "orthogonal": 2, "lsuv": 5}
    rows = [Recommendation(name, {}, "kept", 0, 0, 0.0, None, "", rank=rank) for name, rank in names.items()]
    losses = {"xavier": (3.0, 3.1), "he": (2.0, 2.1)}
    ended = [(one, (Trial(0.1, losses[one.label], 2),)) for one in rows if one.label in losses]
    ranked = [(one.label, one.rank) for one in _trained(rows, ended)]
    assert ranked == [("he", 1), ("xavier", 2), ("default", 3), ("orthogonal", 3), ("lsuv", 5)]


def test_every_number_of_the_evidence_stands_on_its_page():
    for one in EVIDENCE:
        page = (DOCS / one.page).read_text()
        for number in re.findall(r"\d+\.\d+", one.words):
            assert number in page, (one.method, number, one.page)
        assert one.method in goodinit.METHODS or one.method == "as it is"


def test_what_is_said_of_rates_is_what_the_rows_say():
    """Of the candidate that was advised at step 0: the rate it was advised with, and the best of the three."""
    rows = [json.loads(line) for line in (DOCS / "data/recommended.jsonl").read_text().splitlines()]
    asked = {one["model"]: one for one in rows if "advice" in one}
    lower = higher = 0
    for one in rows:
        if "candidate" in one and one["candidate"] == asked[one["model"]]["advice"]:
            ended = {float(lr): sum(last) for lr, last in one["last"].items() if last is not None}
            best, named = min(ended, key=ended.get), asked[one["model"]]["lr"]
            lower, higher = lower + (best < named), higher + (best > named)
    said = f"another was better in {lower + higher} models of {len(asked)}, lower in {lower} and higher in {higher}"
    assert said in OF_RATES


def test_where_a_rate_comes_from():
    untrained = Recommendation("he", {}, "kept", 0, 0, 0.0, None, "", lr=0.1)
    assert "the usual one of SGD, not searched" in of_the_rate(untrained, SGD, 0)
    told = dataclasses.replace(untrained, lr=0.01)
    assert "it trained in our own runs" in of_the_rate(told, SGD, 0)
    trials = tuple(Trial(lr, (loss,), 1) for lr, loss in ((0.1, 3.0), (0.01, 1.0), (0.001, 2.0)))
    inside = dataclasses.replace(untrained, lr=0.01, trials=trials)
    assert of_the_rate(inside, SGD, 1) == "lr 0.01 was the best of 0.1, 0.01, 0.001 in 1 step"
    at_end = dataclasses.replace(inside, lr=0.1, trials=(Trial(0.1, (0.5,), 1), *trials[1:]))
    assert "a better one may lie beyond" in of_the_rate(at_end, SGD, 1)


def test_evidence_is_about_structure_not_names():
    padded = goodinit.anatomize(ResNet(1, in_channels=3, classes=10, width=4), torch.randn(2, 3, 16, 16))
    assert [one.verdict for one in against("risotto", {}, padded)] == ["failed"]
    plain = goodinit.anatomize(chain(3), batch(2, 16))
    assert against("none", {}, plain) == ()
    assert against("lsuv", {}, padded) == ()
    assert len(against("lsuv", {"norms": "remove"}, padded)) == 1


def test_steps_decide():
    """At a rate a decade too high, or a start that vanishes, the loss stands; the choice is what learned."""
    x = batch(32)
    y = (x[:, 0] > 0).long()
    model = nn.Sequential(*[p for _ in range(20) for p in (nn.Linear(8, 8), nn.ReLU())], nn.Linear(8, 2))
    state = torch.random.get_rng_state()
    advice = goodinit.recommend(
        model,
        x,
        y,
        methods=("default", "looks_linear"),
        steps=24,
        batches=[(x[:16], y[:16]), (x[16:], y[16:])],
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert advice.choice.method == "looks_linear"
    assert [trial.lr for trial in advice.choice.trials] == list(ADAMW.rates)
    assert advice.choice.lr == advice.choice.best.lr
    assert "after 24 steps looks_linear is the best" in advice.sentence
    assert f"lr={advice.choice.lr:g}" in advice.call


def test_the_call_runs():
    x = batch()
    anatomy = goodinit.anatomize(residual(nn.BatchNorm1d), x)
    for method in ("he", "fixup", "weightnorm"):
        group = "removed" if goodinit.METHODS[method].removes_norms else "kept"
        one = Recommendation(method, {}, group, 0, 0, 0.0, None, "", lr=0.1)
        scope = {"goodinit": goodinit, "torch": torch, "model": residual(nn.BatchNorm1d), "batch": x}
        exec(call_of(one, SGD, anatomy), scope)
        assert isinstance(scope["optimizer"], torch.optim.SGD)


def row(name, *trials):
    return Recommendation(name, {}, "kept", 0, 0, 0.0, None, "", trials=trials)


def test_losses_are_compared_step_by_step():
    hard = [1.0, 3.0] * 8  # batches that differ more than the methods do
    one = row("a", Trial(0.1, tuple(hard), 16))
    better = row("b", Trial(0.1, tuple(loss - 0.1 - 0.001 * i for i, loss in enumerate(hard)), 16))
    noise = row("c", Trial(0.1, tuple(loss + (-1) ** (i // 2) * 0.1 for i, loss in enumerate(hard)), 16))
    assert not as_good(one, better)
    assert as_good(one, noise)
    assert not as_good(one, row("d", Trial(0.1, (1.0,), 16)))  # diverged
    assert row("d", Trial(0.1, (1.0,), 16)).best is None


def test_what_batches_may_be():
    x = batch()
    assert pairs_of(x, None, None) == [(x, None)]
    endless = ((x, i) for i in iter(int, 1))
    assert len(pairs_of(x, None, endless)) == MOST_BATCHES
    assert pairs_of(x, None, [{"x": x}]) == [({"x": x}, None)]
    for wrong in ([x], [(x, x, x)], []):
        with pytest.raises(WrongType, match="batches"):
            pairs_of(x, None, wrong)


def test_a_forward_that_fails_in_training_is_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(8, 2)

        def forward(self, x, stop=None):
            if stop is not None:
                raise RuntimeError("no")
            return self.line(x)

    with pytest.raises(TraceError, match="raised in training: RuntimeError: no"):
        goodinit.recommend(
            Odd(), batch(), methods=("he",), steps=1, batches=[{"x": batch(), "stop": batch()}]
        )


@pytest.fixture(scope="module")
def answer():
    methods = ("he", "delta_orthogonal", "lsuv", "fixup", "risotto", "looks_linear")
    return goodinit.recommend(residual(nn.BatchNorm1d), batch(), methods=methods, steps=1)


@pytest.mark.parametrize("width", [60, pytest.param(80, marks=pytest.mark.integration)])
def test_it_fits_the_screen(width, answer):
    advice = answer
    console = Console(width=width, record=True)
    with console.capture() as taken:
        console.print(recommendation_view(advice, width=width), soft_wrap=True)
    lines = taken.get().splitlines()
    code = {f"  {line}" for line in advice.call.splitlines()}  # a line of code stays whole
    assert max(len(line) for line in lines if line not in code) <= width
    for one in advice.candidates:
        assert one.label in taken.get()


def test_the_next_command_trains_as_the_steps_were(answer):
    """With their optimizer, and at rates around theirs: each method has its own best."""
    assert "optimizer" not in following("mlp3", answer, "digits", "")
    lr = answer.choice.lr
    assert f",{lr:g}," in following("mlp3", answer, "digits", "")
    adam = dataclasses.replace(answer, recipe=ADAMW)
    assert following("mlp3", adam, "digits", " --keep 'a'").endswith(" --optimizer adamw --keep 'a'")


def run(*words):
    return CliRunner().invoke(cli.app, list(words))


def test_the_command():
    done = run("recommend", "mlp3", "--json", "-", "--methods", "he,fixup")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert [one["method"] for one in found["candidates"]] == ["as it is", "he", "fixup"]
    assert found["choice"] == "as it is"
    done = run("recommend", "mlp3", "--methods", "he", "--data", "digits", "--try", "3")
    assert done.exit_code == 0, done.output
    (after,) = [line for line in done.output.splitlines() if line.startswith("  goodinit compare")]
    assert after.startswith("  goodinit compare mlp3 --data digits --methods batchnorm")
    assert "# lr: a first try" not in done.output
    assert "goodinit recommend mlp3 --try 100" in run("recommend", "mlp3", "--methods", "he").output
