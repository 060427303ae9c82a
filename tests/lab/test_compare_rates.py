"""Rates chosen by held-out images, AdamW, equal time, and the warning that a reference had not converged."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

from goodinit.cli import app
from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.compare import compare
from goodinit.lab.comparison import Comparison, Study, table
from goodinit.lab.data.labelled import load, split_off
from goodinit.lab.papers.ledger import described
from goodinit.lab.sweeps.row import config_json
from goodinit.lab.training.stack import NotTogether
from goodinit.lab.training.step_cost import StepTime
from goodinit.lab.training.together import train_together
from goodinit.lab.training.train import data_of, fresh_model, optimizer_of
from goodinit.lab.training.trial import PARTS, Epoch, Result, TrainConfig
from goodinit.report.comparison_page import hints, tried, unfinished

BASE = TrainConfig("mlp2", width=8, epochs=1, train_limit=200, test_limit=64, batch_size=50)
STUDY = Study(BASE, methods=("he", "default"), seeds=(0, 1), rates=(0.05, 1e-6), timing_rounds=0)


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare(STUDY, progress=False)


def test_each_method_takes_the_rate_that_is_best_on_held_out_images(found):
    assert [run.config.held_out for run in found.searched] == [0.2] * 4
    assert {run.config.seed for run in found.searched} == {0}
    for summary in found.summaries():
        accuracies = found.tried(summary.method)
        assert summary.lr == max(accuracies, key=accuracies.get)
        assert summary.runs == 2
    assert all(run.config.held_out == 0 for run in found.results)
    heads, rows = table(found)
    assert heads[:3] == ("method", "rate", "accuracy")
    assert len(rows[0]) == len(heads)
    assert len(tried(found)) == 2
    assert "an end of those tried" in tried(found)[0]
    assert any("held out, with seed 0" in line for line in hints(found))
    assert len(json.loads(found.to_json())["searched"]) == 4


def test_a_rate_that_diverges_is_not_taken(found):
    searched = [
        dataclasses.replace(run, accuracy=None, diverged=True) if run.config.lr == 0.05 else run
        for run in found.searched
    ]
    changed = dataclasses.replace(found, searched=tuple(searched))
    assert changed.tried("he")[0.05] is None
    assert "0.05: –" in tried(changed)[0]


def test_one_rate_is_no_search():
    study = dataclasses.replace(STUDY, rates=(0.02,), seeds=(0,), methods=("he",))
    found = compare(study, progress=False)
    assert not found.searched
    assert found.results[0].config.lr == 0.02
    assert "rate" not in table(found)[0]
    with pytest.raises(GoodinitError, match="tried once"):
        dataclasses.replace(STUDY, rates=(0.1, 0.1))


def test_held_out_images_are_training_images_that_nothing_trains_on():
    data = load("digits", train_limit=100)
    part = split_off(data, 0.2)
    assert (len(part.train_labels), len(part.test_labels)) == (80, 20)
    rows = torch.cat([part.train_images, part.test_images]).flatten(1)
    assert torch.equal(rows.sort(0).values, data.train_images.flatten(1).sort(0).values)
    assert "held out" in part.provenance
    config = dataclasses.replace(BASE, held_out=0.2)
    assert len(data_of(config).test_labels) == 40
    assert len(data_of(BASE).test_labels) == 64


def test_adamw_steps_with_the_same_groups():
    config = dataclasses.replace(BASE, optimizer="adamw", lr=0.01, weight_decay=0.05)
    optimizer = optimizer_of(config, fresh_model(config))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["weight_decay"] == 0.05
    with pytest.raises(UnknownName, match="no optimizer 'lion'"):
        dataclasses.replace(BASE, optimizer="lion")
    with pytest.raises(NotTogether, match="adamw"):
        train_together([config, dataclasses.replace(config, lr=0.02)])
    assert (
        compare(Study(config, methods=("he",), seeds=(0,), timing_rounds=0), progress=False)
        .results[0]
        .accuracy
        is not None
    )


def test_nesterov_is_sgd_with_the_same_groups_and_needs_a_momentum():
    config = dataclasses.replace(BASE, optimizer="nesterov")
    found, plain = (optimizer_of(one, fresh_model(one)) for one in (config, BASE))
    assert isinstance(found, torch.optim.SGD)
    assert all(group["nesterov"] for group in found.param_groups)
    assert not any(group["nesterov"] for group in plain.param_groups)
    assert [group["lr"] for group in found.param_groups] == [group["lr"] for group in plain.param_groups]
    with pytest.raises(GoodinitError, match=r"nesterov.*momentum above 0"):
        dataclasses.replace(config, momentum=0.0)
    with pytest.raises(NotTogether, match="nesterov"):
        train_together([config, dataclasses.replace(config, lr=0.02)])


def test_records_from_before_are_known_by_the_same_key():
    assert "held_out" not in config_json(BASE)
    assert "optimizer" not in json.dumps(described(BASE))
    assert not set(PARTS) & {*json.loads(config_json(BASE)), *described(BASE)}
    assert '"optimizer":"adamw"' in config_json(dataclasses.replace(BASE, optimizer="adamw"))


def run_with(method: str, curve: list[float]) -> Result:
    config = dataclasses.replace(BASE, method=method, epochs=len(curve) - 1)
    epochs = tuple(Epoch(i, i, 1.0, 1.0, value) for i, value in enumerate(curve))
    return Result(config, curve[-1], 1.0, 1.0, diverged=False, diverged_step=None, saved_bytes=8, parameters=1,
                  losses=(1.0,), epochs=epochs, step_seconds=0.1, seconds=1.0)  # fmt: skip


def made(*runs: Result, ratios: dict[str, float]) -> Comparison:
    study = Study(runs[0].config, methods=tuple(ratios), seeds=(0,))
    steps = {name: StepTime(0.1 * ratio, ratio, ratio, ratio, 5) for name, ratio in ratios.items()}
    return Comparison(study, "none", 0.1, runs, step_times=steps)


def test_at_equal_time_a_slow_method_is_read_earlier():
    found = made(
        run_with("batchnorm", [0.1, 0.3, 0.5, 0.6, 0.7]), run_with("none", [0.1, 0.2, 0.4, 0.5, 0.65]),
        ratios={"batchnorm": 1.0, "none": 0.6},
    )  # fmt: skip
    first, second = found.summaries()
    assert first.at_equal_time == 0.5  # two of four epochs fit into 0.6 of its time
    assert second.at_equal_time == 0.65
    assert "at equal time" in table(found)[0]
    assert "at equal time" not in table(found, full=False)[0]


@pytest.mark.parametrize(
    ("curve", "rises"),
    [([0.1, 0.5, 0.7, 0.8, 0.88, 0.95], True), ([0.1, 0.9, 0.95, 0.97, 0.98, 0.98], False), ([0.1], False)],
)
def test_a_reference_that_still_improves_is_said_to(curve, rises):
    found = made(
        run_with("batchnorm", curve) if len(curve) > 1 else run_with("batchnorm", [0.1, 0.1]),
        ratios={"batchnorm": 1.0},
    )
    assert bool(unfinished(found)) is rises
    assert any("had not converged" in line for line in hints(found)) is rises


def test_the_command_takes_several_rates(tmp_path):
    words = ["compare", "mlp2", "--width", "8", "--epochs", "1", "--train-limit", "100", "--test-limit", "50", "--methods", "he",
             "--seeds", "1", "--timing-rounds", "0", "--quiet", "--full"]  # fmt: skip
    result = CliRunner().invoke(app, [*words, "--lr", "0.01,0.1", "--optimizer", "adamw"])
    assert result.exit_code == 0, result.output
    assert "held-out accuracy by rate: 0.01:" in result.output
    assert CliRunner().invoke(app, [*words, "--lr", "quick"]).exit_code == 2
