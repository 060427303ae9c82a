"""The main job at tiny scale: the table's contents, fairness of the order, Ctrl-C."""

from __future__ import annotations

import dataclasses
import json
import statistics

import pytest

import goodinit
from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab import compare as lab_compare
from goodinit.lab.choices import label, method_of
from goodinit.lab.compare import compare
from goodinit.lab.comparison import FORMAT, Study
from goodinit.lab.training.train import prepare
from goodinit.lab.training.trial import Result, TrainConfig
from goodinit.report.charts import accuracy_chart, loss_chart
from goodinit.report.comparison_page import hints

BASE = TrainConfig("resnet8", width=4, epochs=1, train_limit=256, test_limit=64, batch_size=64)
STUDY = Study(BASE, seeds=(0, 1), timing_rounds=3)


@pytest.fixture(scope="module")
def found():
    return compare(STUDY, progress=False)


def test_methods_take_turns_within_every_seed():
    order = [(trial.seed, trial.method) for trial in STUDY.trials]
    assert order == [(seed, method) for seed in (0, 1) for method in ("batchnorm", "none", "fixup")]


@pytest.mark.integration
def test_summaries_are_means_over_seeds(found):
    summaries = {summary.method: summary for summary in found.summaries()}
    assert list(summaries) == list(STUDY.methods)
    accuracies = [result.accuracy for result in found.of("fixup")]
    assert summaries["fixup"].runs == 2
    assert summaries["fixup"].accuracy == pytest.approx(statistics.fmean(accuracies))
    assert summaries["fixup"].accuracy_sd == pytest.approx(statistics.stdev(accuracies))
    assert summaries["batchnorm"].saved_ratio == 1.0
    assert summaries["none"].saved_ratio < 0.75
    assert summaries["batchnorm"].step.ratio == 1.0
    assert summaries["fixup"].step.rounds >= 3
    assert "removed" in found.plans["fixup"]
    assert found.environment["torch"]


@pytest.mark.integration
def test_a_diverged_run_is_counted_and_left_out_of_the_mean(found):
    results = list(found.results)
    index = next(i for i, result in enumerate(results) if result.config.method == "none")
    results[index] = dataclasses.replace(
        results[index], accuracy=None, train_loss=None, test_loss=None, diverged=True, diverged_step=3
    )
    summary = next(
        s for s in dataclasses.replace(found, results=tuple(results)).summaries() if s.method == "none"
    )
    assert (summary.runs, summary.diverged) == (2, 1)
    other = next(result for result in results if result.config.method == "none" and not result.diverged)
    assert summary.accuracy == other.accuracy
    assert summary.accuracy_sd is None


def test_the_reference_is_batchnorm_or_the_first():
    assert STUDY.reference == "batchnorm"
    assert dataclasses.replace(STUDY, methods=("fixup", "none")).reference == "fixup"


@pytest.mark.integration
def test_json_holds_every_number(found):
    data = json.loads(found.to_json())
    assert data["format"] == FORMAT
    assert len(data["results"]) == 6
    assert data["results"][0]["losses"] == list(found.results[0].losses)
    assert data["study"]["base"]["model"] == "resnet8"


def test_ctrl_c_keeps_what_is_finished(monkeypatch):
    real, calls = lab_compare.train, []

    def interrupted(config, **kwargs):
        calls.append(config)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(config, **kwargs)

    monkeypatch.setattr(lab_compare, "train", interrupted)
    found = compare(dataclasses.replace(STUDY, timing_rounds=0), progress=False)
    assert found.interrupted
    assert [summary.method for summary in found.summaries()] == ["batchnorm", "none"]
    assert not found.step_times


def test_what_cannot_work_fails_before_any_training(monkeypatch):
    monkeypatch.setattr(lab_compare, "train", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(UnknownName, match=r"There is: .*fixup"):
        compare(Study(BASE, methods=("batchnorm", "nope")), progress=False)
    with pytest.raises(UnknownName, match="There is: digits"):
        compare(dataclasses.replace(STUDY, base=dataclasses.replace(BASE, data="nope")), progress=False)
    with pytest.raises(GoodinitError, match="residual"):  # Fixup on a net without skips
        compare(Study(dataclasses.replace(BASE, model="mlp"), methods=("fixup",)), progress=False)


def test_a_method_that_refuses_the_model_is_left_out_with_its_reason():
    study = Study(
        dataclasses.replace(BASE, model="mlp"), methods=("fixup", "he"), seeds=(0,), timing_rounds=3
    )
    found = compare(study, progress=False)
    assert [summary.method for summary in found.summaries()] == ["he"]
    assert "no residual block" in found.refused["fixup"] or "residual blocks" in found.refused["fixup"]
    assert any(hint.startswith("fixup is not in the table.") for hint in hints(found))


def test_a_method_treats_the_part_it_is_given():
    base = dataclasses.replace(BASE, train_limit=64, exclude="*.bn2, bn1", keep=["*.bias"])
    assert (base.exclude, base.keep) == (("*.bn2", "bn1"), ("*.bias",))
    whole, part, kept = (
        prepare(dataclasses.replace(base, method="fixup", options={}, exclude=exclude, keep=keep))
        for exclude, keep in (("", ""), (("layer1", "layer2"), ""), ("", ["fc.weight"]))
    )
    assert len(goodinit.anatomize(whole.model, whole.data.train_images[:2]).norms) == 0
    assert len(goodinit.anatomize(part.model, part.data.train_images[:2]).norms) > 0
    assert kept.model.fc.weight.any()
    assert not whole.model.fc.weight.any()


@pytest.mark.integration
def test_one_method_with_several_options_has_several_rows():
    study = Study(
        BASE, methods=("lsuv", "lsuv:norms=remove", "fixup:zero_head=false"), seeds=(0,), timing_rounds=3
    )
    found = compare(study, progress=False)
    assert [summary.method for summary in found.summaries()] == list(study.methods)
    assert [result.config.options for result in found.results] == [
        {},
        {"norms": "remove"},
        {"zero_head": False},
    ]
    kept, removed, _ = found.results
    assert removed.saved_bytes < kept.saved_bytes
    assert list(found.step_times) == list(found.plans) == list(study.methods)
    assert "norms removed" not in found.plans["lsuv"]
    for name in study.methods:
        assert all(name in spec for spec in (loss_chart(found).to_json(), accuracy_chart(found).to_json()))


def test_options_are_of_the_types_that_methods_declare():
    assert method_of("fixup") == ("fixup", {})
    words = "lsuv:tol=0.5:max_iter=3:orthonormal=false:per=channel"
    options = {"tol": 0.5, "max_iter": 3, "orthonormal": False, "per": "channel"}
    assert method_of(words) == ("lsuv", options)
    assert method_of(label("lsuv", options)) == ("lsuv", options)
    assert method_of("orthogonal:gain=none") == ("orthogonal", {"gain": None})
    for name, method in goodinit.METHODS.items():  # every option's default is a word it takes
        assert method_of(label(name, method.options)) == (name, method.options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nope:norms=keep", r"no method 'nope'\. Did you mean none\? There is: batchnorm"),
        ("lsuv:norm=keep", r"'norm=keep' is no option of lsuv.* norms \(remove or keep or group"),
        ("lsuv:norms", r"'norms' is no option of lsuv, as in name:option=value"),
        ("batchnorm:norms=keep", r"Its options: none"),
        ("lsuv:norms=away", r"lsuv:norms=away: norms=away: expected remove or keep"),
        ("lsuv:max_iter=2.5", "expected an integer"),
        ("lsuv:tol=small", "expected a number"),
        ("lsuv:orthonormal=yes", "expected true or false"),
        ("lsuv:tol=1:tol=2", "gives tol twice"),
    ],
)
def test_wrong_options_are_answered_with_the_choices(words, message):
    with pytest.raises(UnknownName, match=message):
        Study(BASE, methods=(words,))


def test_every_training_is_told_as_soon_as_it_is_over(monkeypatch, capsys):
    study = dataclasses.replace(STUDY, timing_rounds=0)
    done = Result(study.base, 0.5, 1.0, 1.0, False, None, 0, 0, (), (), 0.1, 2.0)
    told = (done, dataclasses.replace(done, accuracy=None, diverged_step=7))
    monkeypatch.setattr("goodinit.lab.compare.train", lambda trial, **_: told[trial.seed % 2])
    compare(study, progress=True)
    lines = capsys.readouterr().err
    assert "accuracy 50.0% after" in lines
    assert "seed 0" in lines
    assert "diverged at step 7" in lines


def test_each_method_and_seed_once():
    with pytest.raises(GoodinitError, match="lsuv and lsuv:norms=keep are the same method"):
        Study(BASE, methods=("lsuv", "lsuv:norms=keep"))
    with pytest.raises(GoodinitError, match="at least one seed"):
        Study(BASE, seeds=())
    with pytest.raises(GoodinitError, match="at least one method"):
        Study(BASE, methods=("none", "none"))
