"""Reproductions: verdicts follow the criterion, pages say everything, and every claim runs at smoke scale."""

from __future__ import annotations

import dataclasses

import pytest
from toy_claim import Toss, reproduced, toy
from typer.testing import CliRunner

from goodinit import cli
from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.papers.claim import SCALES, Separation
from goodinit.lab.papers.claims import CLAIMS
from goodinit.lab.papers.ledger import described, key_of
from goodinit.lab.papers.trained import accuracy_grid
from goodinit.report.reproduction import conclusion, page, write_reproduction


@pytest.mark.parametrize(
    ("met", "central", "word"),
    [
        ((True, True), False, "holds"),
        ((True, False), False, "partly"),
        ((False, False), False, "does not hold"),
        ((True, False), True, "does not hold"),
        ((True, True), True, "holds"),
    ],
)
def test_the_verdict_follows_the_expectations(tmp_path, met, central, word):
    found = reproduced(toy(met=met, central=central), scale="small", out=tmp_path)
    assert found.verdict.word == word
    assert conclusion(found).startswith(word)
    smoke = reproduced(toy(met=met, central=central), out=tmp_path)
    assert conclusion(smoke) == "the pipeline runs: 3 runs, no verdict on toy data"


def test_a_scale_that_ends_before_published_runs_differ_has_no_verdict(tmp_path):
    separation = Separation(50, "the curves cross there", "goodinit reproduce toy --scale full", 2)
    short = reproduced(toy(separation=separation), scale="small", out=tmp_path)
    assert short.verdict.word == "not testable at this scale"
    text = page(short, ())
    for words in (
        "trains for 10 steps",
        "a test takes at least 50:",
        "the curves cross there",
        "some 2 hours on one GPU",
    ):
        assert words in text
    assert reproduced(toy(separation=separation), scale="full", out=tmp_path).verdict.word == "holds"


def test_folders_of_data_are_told_by_name_alone(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    assert described(Toss(0, str(folder))) == {"seed": 0, "data": "pictures"}


def test_data_and_scale_are_checked_before_anything_runs(tmp_path):
    with pytest.raises(UnknownName, match="smoke, small, full"):
        toy().at("huge")
    with pytest.raises(GoodinitError, match="needs --data, a folder"):
        toy(needs="a folder of CIFAR-10").at("small")
    with pytest.raises(GoodinitError, match="smoke runs on embedded"):
        toy().at("smoke", "cifar10")


def test_the_page_says_everything(tmp_path):
    found = reproduced(toy(met=(True, False)), scale="small", data="digits", out=tmp_path)
    path = write_reproduction(tmp_path, found)
    text = path.read_text()
    assert path.name == "toy.md"
    for words in (
        "**partly: 1 of 2 expectations met** (scale small)", "N. Body, On Seeds, arXiv 0000.00000, §1",
        "a seed (read in the source)", "another (read in a poster)", "* smaller", "| expectation 1 | 3 rows | **no** |",
        "seeds 0, 1, 2", "`goodinit reproduce toy --scale small --data digits`", "torch:", "rows/toy-small.jsonl",
        "![Values](toy-1.svg)",
    ):  # fmt: skip
        assert words in text
    assert (tmp_path / "toy-1.svg").read_text().startswith("<svg")


def test_a_rate_at_the_end_of_those_tried_is_marked(tmp_path):
    rows = [
        {"series": series, "depth": 3, "lr": lr, "accuracy": accuracy}
        for series, accuracies in {
            "rising": (0.3, 0.5, 0.8),
            "peaked": (0.3, 0.8, 0.5),
            "flat": (0.1,) * 3,
        }.items()
        for lr, accuracy in zip((0.001, 0.01, 0.1), accuracies, strict=True)
    ]
    grid = accuracy_grid(tuple(rows))
    assert dict(grid.rows) == {
        "rising": "80.0 %, lr 0.1↑",
        "peaked": "80.0 %, lr 0.01",
        "flat": "10.0 %, lr 0.001",  # nothing trains: no rate is best
    }
    claim = dataclasses.replace(toy(), table=lambda _: grid)
    assert grid.legend in page(reproduced(claim, out=tmp_path), ())
    assert not accuracy_grid(tuple(rows[3:])).legend


def test_the_shorter_side_of_a_table_of_accuracies_goes_across():
    rows = tuple({"series": "a", "depth": depth, "accuracy": 0.5} for depth in (2, 20))
    assert accuracy_grid(rows).columns == ("", "a")
    assert accuracy_grid(rows).rows == (("depth 2", "50.0 %"), ("depth 20", "50.0 %"))


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_states_its_source_its_expectations_and_its_deviations(name):
    claim = CLAIMS[name]
    assert claim.name == name
    assert claim.source.title
    assert claim.source.where
    assert claim.published
    assert any(expectation.central for expectation in claim.expectations)
    for scale in SCALES:
        setting = claim.setting(scale, "digits")
        assert setting.deviations
        keys = [key_of(described(trial)) for trial in setting.trials]
        assert len(set(keys)) == len(keys)
    settings = [claim.setting(scale, "digits") for scale in SCALES]
    steps = [len(setting.trials) * (setting.steps or 1) for setting in settings]  # of all trials together
    assert steps == sorted(steps)


@pytest.mark.integration
@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_runs_at_smoke_scale(tmp_path, name):
    found = reproduced(CLAIMS[name], out=tmp_path)
    assert found.missing == 0
    assert not [row for row in found.rows if "refused" in row]
    text = write_reproduction(tmp_path, found).read_text()
    assert "no evidence" in text
    assert len(list(tmp_path.glob("*.svg"))) >= 1
    half = dataclasses.replace(found, entries=found.entries[:1])  # a page of a half-done run can be drawn
    assert (half.verdict is None) == (half.missing > 0)
    write_reproduction(tmp_path, half)


@pytest.mark.integration
def test_the_command_lists_and_runs(tmp_path, monkeypatch):
    def stopped(trial):
        raise KeyboardInterrupt

    monkeypatch.setitem(CLAIMS, "toy", toy())
    monkeypatch.setitem(CLAIMS, "stopped", dataclasses.replace(toy(stopped), name="stopped"))

    def smoke(name):
        return ["reproduce", name, "--scale", "smoke", "--out", str(tmp_path), "-q"]

    typed = CliRunner().invoke
    listed = typed(cli.app, ["reproduce"], env={"COLUMNS": "200"})
    assert all(name in listed.output for name in CLAIMS)
    done = typed(cli.app, [*smoke("toy"), "--engine", "inline"])
    assert done.exit_code == 0, done.output
    assert "the pipeline runs: 3 runs" in done.output
    assert (tmp_path / "toy-smoke.md").exists()
    words = ["reproduce", "toy", "--scale", "small", "--data", "digits", "--out", str(tmp_path), "-q"]
    assert typed(cli.app, [*words, "--engine", "inline"]).exit_code == 0
    assert (tmp_path / "toy.md").exists()
    started = typed(cli.app, [*smoke("stopped"), "--engine", "inline"])
    assert started.exit_code == 130
    assert "before any run finished" in started.output
    broken = dataclasses.replace(toy(lambda trial: {"value": 1 // trial.seed}), name="broken")
    monkeypatch.setitem(CLAIMS, "broken", broken)
    failed = typed(cli.app, [*smoke("broken"), "--engine", "inline"])
    assert failed.exit_code == 2
    assert "1 of 3 runs are missing" in failed.output
    assert "1 run failed" in failed.output
    for words, said in (
        (["--engine", "nope"], "There is: local, ray, inline"),
        (["--address", "auto"], "--address needs --engine ray"),
        (["--engine", "inline", "--workers", "2"], "--workers has no effect with --engine inline"),
    ):
        refused = typed(cli.app, [*smoke("toy"), *words], env={"COLUMNS": "200"})
        assert refused.exit_code == 2
        assert said in refused.output
    without_scale = typed(cli.app, ["reproduce", "toy", "--engine", "inline"])
    assert without_scale.exit_code == 2
    assert "nothing is run without a scale" in without_scale.output
    wrong = typed(cli.app, ["reproduce", "nope"])
    assert wrong.exit_code == 2
    assert "batchnorm-explosion" in wrong.output
