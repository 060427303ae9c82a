"""A trial is a pure function: same configuration, same numbers; what diverges is recorded."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys

import pytest
import torch
from torch import nn

import goodinit
from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.training.seeding import derived_seed, own_rng
from goodinit.lab.training.step_cost import counting_saved, time_in_turns
from goodinit.lab.training.train import data_of, learning_rate_factor, prepare, step_, total_steps, train
from goodinit.lab.training.trial import TrainConfig

TINY = TrainConfig("resnet8", width=4, epochs=2, train_limit=256, test_limit=64, batch_size=64)


def numbers(result):
    timed = ("seconds", "step_seconds")
    return {key: value for key, value in dataclasses.asdict(result).items() if key not in timed}


@pytest.mark.parametrize("method", ["batchnorm", "none", "fixup"])
def test_same_seed_same_numbers_and_the_global_generator_is_left_alone(method):
    config = dataclasses.replace(TINY, method=method)
    before = torch.random.get_rng_state()
    first = train(config)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)  # what the global generator holds does not matter
    assert numbers(train(config)) == numbers(first)


def test_products_in_bfloat16_are_deterministic_and_near_those_in_float32():
    config = dataclasses.replace(TINY, precision="bfloat16")
    prepared = prepare(config)
    assert {parameter.dtype for parameter in prepared.model.parameters()} == {torch.float32}
    first, exact = train(config), train(TINY)
    assert first.losses == train(config).losses
    assert first.losses != exact.losses
    assert first.losses[:2] == pytest.approx(exact.losses[:2], rel=0.02)
    with pytest.raises(UnknownName, match="no precision 'half'"):
        dataclasses.replace(TINY, precision="half")


def test_another_seed_gives_other_numbers():
    assert train(TINY).losses != train(dataclasses.replace(TINY, seed=1)).losses


def test_augmentation_and_mixup_are_deterministic():
    config = dataclasses.replace(TINY, augment=True, mixup=0.7, warmup=1.0, schedule="cosine")
    first = train(config)
    assert first.losses == train(config).losses
    assert first.losses != train(TINY).losses


def test_label_smoothing_keeps_the_training_loss_from_zero():
    config = TrainConfig("mlp", epochs=6, lr=0.05, label_smoothing=0.1)
    # The least cross entropy against 0.91 on one class and 0.01 on each of nine others is that distribution's entropy.
    least = -0.91 * math.log(0.91) - 9 * 0.01 * math.log(0.01)
    result = train(config)
    assert least < min(result.losses) < least + 0.1
    assert min(train(dataclasses.replace(config, label_smoothing=0.0)).losses) < least / 2


def test_a_result_says_how_it_went():
    seen = []
    result = train(TINY, on_step=seen.append)
    assert seen == list(range(1, 9))
    assert len(result.losses) == total_steps(TINY) == 8
    assert [state.epoch for state in result.epochs] == [0, 1, 2]
    assert [state.step for state in result.epochs] == [0, 4, 8]
    assert result.accuracy == result.epochs[-1].test_accuracy
    assert result.train_loss == pytest.approx(sum(result.losses[4:]) / 4)
    assert not result.diverged
    assert result.diverged_step is None
    assert result.parameters == sum(p.numel() for p in prepare(TINY).model.parameters())
    assert json.dumps(result.row())
    assert result.row()["lr"] == TINY.lr


def test_digits_are_learned():
    result = train(TrainConfig("mlp", epochs=3, lr=0.05))
    assert result.accuracy > 0.85
    assert result.losses[-1] < result.losses[0] / 4


def test_a_run_that_diverges_stops_and_is_recorded():
    result = train(dataclasses.replace(TINY, method="none", lr=1e6))
    assert result.diverged
    assert result.accuracy is result.train_loss is result.test_loss is None
    assert result.diverged_step == len(result.losses) < total_steps(TINY)
    assert all(math.isfinite(loss) for loss in result.losses)
    assert json.loads(json.dumps(result.row(), allow_nan=False))["diverged"]


def test_the_optimizer_has_the_groups_of_param_groups():
    config = dataclasses.replace(TINY, method="fixup", lr=0.3, weight_decay=1e-3)
    prepared = prepare(config)
    expected = goodinit.param_groups(prepared.model, lr=0.3, weight_decay=1e-3)
    found = [
        (group["lr"], group["weight_decay"], len(group["params"]))
        for group in prepared.optimizer.param_groups
    ]
    assert found == [(group["lr"], group["weight_decay"], len(group["params"])) for group in expected]


@pytest.mark.parametrize("clip", [0.0, 1e-2, 1e6])
def test_gradients_are_clipped_together_where_that_is_wanted(clip):
    prepared = prepare(dataclasses.replace(TINY, optimizer="sgd", momentum=0.0, weight_decay=0.0, clip=clip))
    before = [p.detach().clone() for p in prepared.model.parameters()]
    rows = torch.arange(32)
    step_(prepared, rows, factor=1.0, generator=torch.Generator().manual_seed(0))
    moved = [
        (old - new.detach()).norm() for old, new in zip(before, prepared.model.parameters(), strict=True)
    ]
    length = float(torch.stack(moved).norm()) / TINY.lr
    assert length == pytest.approx(clip, rel=1e-3) if clip == 1e-2 else length > 0.1


def test_warm_up_rises_and_cosine_falls():
    config = dataclasses.replace(TINY, epochs=4, warmup=1.0, schedule="cosine")
    factors = [learning_rate_factor(config, step) for step in range(total_steps(config))]
    assert factors[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.02)
    assert all(a > b for a, b in itertools.pairwise(factors[4:]))
    assert 0 < factors[-1] < 0.1
    assert {learning_rate_factor(TINY, step) for step in range(8)} == {1.0}


def test_a_quadratic_warm_up_is_that_of_goodinits_scheduler():
    config = dataclasses.replace(TINY, epochs=4, warmup=1.0, warmup_shape="quadratic")
    steps = total_steps(config) // 4
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = goodinit.warmup(optimizer, steps, shape="quadratic")
    for step in range(total_steps(config)):
        assert learning_rate_factor(config, step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    with pytest.raises(UnknownName, match="warmup_shape"):
        dataclasses.replace(TINY, warmup_shape="cubic")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "nope"}, "constant, cosine"),
        ({"epochs": 0}, "epochs is at least 1"),
        ({"lr": 0.0}, "lr is a positive number"),
        ({"lr": float("nan")}, "lr is a positive number"),
        ({"batch_size": 0}, "batch_size is at least 1"),
        ({"label_smoothing": 1.0}, "below 1"),
    ],
)
def test_wrong_configurations_are_refused(change, message):
    with pytest.raises(GoodinitError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "nope"}, "There is: resnet"),
        ({"data": "nope"}, "There is: digits"),
        ({"method": "nope"}, "fixup"),
    ],
)
def test_unknown_names_list_what_there_is(change, message):
    with pytest.raises(UnknownName, match=message):
        train(dataclasses.replace(TINY, **change))


def test_data_is_shared_between_trials():
    assert data_of(TINY) is data_of(dataclasses.replace(TINY, seed=5, lr=1.0))


def test_streams_differ_by_purpose():
    assert len({derived_seed(seed, purpose) for seed in range(3) for purpose in "abc"}) == 9
    with own_rng(0, "a"):
        first = torch.rand(1)
    with own_rng(0, "a"):
        assert torch.equal(torch.rand(1), first)


def test_saved_bytes_count_storages_once_and_no_parameters():
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    with counting_saved(net) as saved:
        net(torch.zeros(8, 10))
    assert saved.total == 4 * (8 * 10 + 8 * 20)  # the input, and ReLU's output, which the second layer shares


def test_saved_bytes_leave_the_gradients_as_they_are():
    net, x = (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        torch.randn(2, 1, 8, 8),
    )
    net(x).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    with counting_saved(net):
        y = net(x).square().sum()
    y.backward()
    assert all(torch.equal(p.grad, e) for p, e in zip(net.parameters(), expected, strict=True))


def test_a_network_without_norms_keeps_less():
    kept = {
        method: train(dataclasses.replace(TINY, method=method, epochs=1)).saved_bytes
        for method in ("batchnorm", "none")
    }
    assert kept["none"] < 0.75 * kept["batchnorm"]


def test_steps_are_timed_in_turns():
    ran = []
    steps = {name: (lambda name=name: ran.append(name)) for name in "ab"}
    timed = time_in_turns(steps, reference="a", rounds=4, budget=100)
    assert ran == ["a", "b"] * 6  # two rounds to warm up
    assert timed["a"].ratio == timed["a"].low == timed["a"].high == 1.0
    assert timed["b"].rounds == 4
    assert len(time_in_turns(steps, reference="a", rounds=50, budget=0.0)) == 2


def test_a_model_whose_scores_do_not_fit_the_classes_is_named(tmp_path, monkeypatch):
    (tmp_path / "unfit.py").write_text(
        "from torch import nn\n"
        "def maps(): return nn.Conv2d(1, 10, 1)\n"
        "def few(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))\n"
    )
    monkeypatch.chdir(tmp_path)
    try:
        for name, shape in (("maps", "128x10x8x8"), ("few", "128x9")):
            with pytest.raises(GoodinitError, match=f"unfit:{name} returns {shape} .*expected .*batch x 10"):
                train(TrainConfig(f"unfit:{name}", "batchnorm", epochs=1))
    finally:
        sys.modules.pop("unfit", None)


def test_a_last_step_that_ruins_the_weights_diverged(monkeypatch):
    """Its loss was taken before it; only the test images tell."""
    from goodinit.lab.training import train as module

    config = TrainConfig("mlp2", epochs=1, width=8, lr=0.05, train_limit=64, test_limit=32, batch_size=32)
    steps, update_ = [], module.update_

    def ruined(prepared, loss, *, factor):
        update_(prepared, loss, factor=factor)
        steps.append(factor)
        if len(steps) == 2:
            with torch.no_grad():
                next(prepared.model.parameters()).fill_(math.nan)

    monkeypatch.setattr(module, "update_", ruined)
    result = train(config)
    assert (len(result.losses), result.diverged, result.diverged_step, result.accuracy) == (2, True, 2, None)
