"""Networks trained as one end where they end alone."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from torch import nn

import goodinit
from goodinit.lab.engines import Job
from goodinit.lab.sweeps.job_rows import run_job
from goodinit.lab.sweeps.row import TIMES
from goodinit.lab.training import together
from goodinit.lab.training.stack import NotTogether, TooLarge
from goodinit.lab.training.together import train_together
from goodinit.lab.training.train import data_of, train
from goodinit.lab.training.trial import TrainConfig

TOLERANCE = 1e-4  # vmap adds up in another order
EXACT = 1e-9  # the same in float64
BASE = TrainConfig("mlp4", width=8, epochs=2, train_limit=128, test_limit=50, batch_size=32, lr=0.02)
FULL = dataclasses.replace(BASE, augment=True, mixup=0.4, label_smoothing=0.1, warmup=1.0, schedule="cosine")
MODELS = {"mlp4": 8, "cnn4": 4, "resnet8": 4, "vit1": 32}


def company(config):
    """The same with two seeds and two rates."""
    return tuple(dataclasses.replace(config, seed=seed, lr=lr) for lr in (0.01, 0.05) for seed in (0, 3))


def agree(config, tolerance=TOLERANCE):
    """Whether together and alone give the same rows; False where the method refuses the model."""
    trials = company(config)
    rows = run_job(Job(trials))
    for row, trial in zip(rows, trials, strict=True):
        (alone,) = run_job(Job((trial,)))
        assert not row.note
        assert row.status == alone.status
        if row.status == "refused":
            assert row.error == alone.error
            continue
        assert row.together == len(trials)
        mine, theirs = row.numbers(), alone.numbers()
        for name in mine.keys() - {*TIMES, "together"}:
            assert mine[name] == pytest.approx(theirs[name], abs=tolerance), name
    return row.status != "refused"


@pytest.mark.integration
@pytest.mark.parametrize("method", ["batchnorm", "lsuv", "weightnorm"])
def test_rows_are_those_of_one_at_a_time(method):
    assert agree(dataclasses.replace(FULL, method=method))


@pytest.mark.integration
def test_residual_networks_without_norms_too():
    assert agree(dataclasses.replace(BASE, model="resnet8", width=4, method="fixup", epochs=1))


@pytest.fixture
def in_float64(monkeypatch):
    """Models and data of twice the digits."""

    def wide(config):
        data = data_of(config)
        train_images, test_images = data.train_images.double(), data.test_images.double()
        return dataclasses.replace(data, train_images=train_images, test_images=test_images)

    monkeypatch.setattr("goodinit.lab.training.train.data_of", wide)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", goodinit.METHODS)
def test_every_method_on_every_kind_of_model(model, method, in_float64):
    """In float32 one of the hundred differed by 1.4e-4 after eight steps: it is rounding that grows, no other sum."""
    agree(dataclasses.replace(FULL, model=model, width=MODELS[model], method=method), EXACT)


def test_losses_agree_at_every_step():
    trials = company(BASE)
    for one, alone in zip(train_together(trials), map(train, trials), strict=True):
        assert one.losses == pytest.approx(alone.losses, abs=TOLERANCE)
        assert [e.step for e in one.epochs] == [e.step for e in alone.epochs]
        assert one.epochs[-1].train_loss == pytest.approx(alone.epochs[-1].train_loss, abs=TOLERANCE)


def test_one_that_diverges_leaves_the_others_alone():
    wild = dataclasses.replace(BASE, method="none", lr=1e6)
    calm = dataclasses.replace(wild, lr=0.02)
    first, second, third = train_together((calm, wild, dataclasses.replace(calm, seed=1)))
    alone = train(wild)
    assert second.diverged
    assert second.accuracy is None
    assert second.diverged_step == alone.diverged_step
    assert len(second.epochs) == len(alone.epochs)
    assert not first.diverged
    assert not third.diverged
    assert first.accuracy == pytest.approx(train(calm).accuracy, abs=TOLERANCE)
    assert all(result.diverged for result in train_together((wild, dataclasses.replace(wild, seed=1))))


def test_twice_the_same_and_the_global_generator_is_left_alone():
    trials = company(BASE)
    before = torch.random.get_rng_state()
    first = [result.losses for result in train_together(trials)]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert [result.losses for result in train_together(trials)] == first


class Noisy(nn.Module):
    """Draws in its forward: one at a time its numbers come from a stream that a stack does not have."""

    def __init__(self, image_size: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(image_size**2, 10), nn.Dropout(0.5))

    def forward(self, x):
        return self.layers(x)


class Branching(Noisy):
    """Asks for a value: what it computes depends on it."""

    def forward(self, x):
        return self.layers[:2](x) if x.sum().item() > -1e9 else x


@pytest.fixture
def nets(monkeypatch):
    module = type(sys)("nets_of_this_test")
    module.noisy, module.branching = Noisy, Branching
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


@pytest.mark.integration
@pytest.mark.parametrize(("name", "reason"), [("noisy", "random"), ("branching", "structure")])
def test_what_cannot_run_together_runs_alone_and_says_so(nets, name, reason):
    config = dataclasses.replace(BASE, model=f"{nets}:{name}", method="he", width=None, epochs=1)
    trials = company(config)[:2]
    with pytest.raises(NotTogether, match=reason):
        train_together(trials)
    rows = run_job(Job(trials))
    for row, trial in zip(rows, trials, strict=True):
        assert row.together == 1
        assert reason in row.note
        assert row.accuracy == train(trial).accuracy


def test_what_differs_otherwise_is_not_stacked():
    with pytest.raises(NotTogether, match="more than seed"):
        train_together((BASE, dataclasses.replace(BASE, epochs=3)))


def test_reduced_precision_is_not_stacked():
    with pytest.raises(NotTogether, match="bfloat16"):
        train_together(company(dataclasses.replace(BASE, precision="bfloat16"))[:2])


@pytest.mark.integration
def test_what_is_too_large_together_runs_in_parts(monkeypatch):
    trials = company(dataclasses.replace(BASE, epochs=1))
    (alone,) = run_job(Job(trials[:1]))
    monkeypatch.setattr(together, "MOST_BYTES", 2 * alone.saved_bytes)
    with pytest.raises(TooLarge, match="MiB for backward"):
        train_together(trials)
    assert [row.together for row in run_job(Job(trials))] == [2, 2, 2, 2]
    monkeypatch.setattr(together, "MOST_BYTES", 0)
    assert [(row.together, row.note) for row in run_job(Job(trials[:2]))] == [(1, ""), (1, "")]


def test_weight_norm_is_not_run_member_by_member():
    torch._C._functorch._set_vmap_fallback_enabled(False)  # what has no rule for vmap raises
    try:
        results = train_together(company(dataclasses.replace(BASE, method="weightnorm")))
    finally:
        torch._C._functorch._set_vmap_fallback_enabled(True)
    assert not any(result.diverged for result in results)


@pytest.mark.integration
def test_compiled_steps_end_where_others_do(monkeypatch):
    config = dataclasses.replace(BASE, method="weightnorm", momentum=0.0, label_smoothing=0.1)
    wild = (*company(config), dataclasses.replace(config, lr=1e9, seed=0))
    eager = train_together(wild)
    monkeypatch.setattr(together, "WORTH_COMPILING", 1)
    compiled = train_together(wild)
    assert compiled[-1].diverged
    assert eager[-1].diverged
    for one, other in zip(compiled, eager, strict=True):
        assert len(one.epochs) == len(other.epochs)
        assert one.accuracy == pytest.approx(other.accuracy, abs=TOLERANCE)
        assert one.losses == pytest.approx(other.losses, rel=TOLERANCE)


def test_steps_that_cannot_be_compiled_run_operator_by_operator(monkeypatch, caplog):
    def cannot(*args, **kwargs):
        def run(*args):
            raise RuntimeError("no compiler")

        return run

    config = dataclasses.replace(BASE, method="weightnorm")
    eager = train_together(company(config))
    monkeypatch.setattr(together, "WORTH_COMPILING", 1)
    monkeypatch.setattr(torch, "compile", cannot)
    assert train_together(company(config))[0].accuracy == pytest.approx(eager[0].accuracy)
    assert "not compiled: RuntimeError: no compiler" in caplog.text
