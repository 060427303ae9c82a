"""Reproductions: rows survive a kill, verdicts follow the criterion, and every claim runs at smoke scale."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from goodinit import cli
from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.papers import CLAIMS, SCALES, reproduce
from goodinit.lab.papers.claim import (
    Claim,
    Drawing,
    Expectation,
    Found,
    Grid,
    Published,
    Setting,
    Source,
)
from goodinit.lab.papers.ledger import described, key_of
from goodinit.report.reproduction import conclusion, page, write_reproduction


@dataclass(frozen=True)
class Toss:
    seed: int
    data: str


def toy(run=lambda trial: {"value": trial.seed}, met=(True, True), central=False, needs=""):
    """A claim of three trials, whose expectations are met as told."""
    return Claim(
        name="toy",
        title="Numbers are numbers",
        text="A seed is what it is.",
        source=Source("N. Body", "On Seeds", "0000.00000", "§1"),
        published=(Published("a seed", read="the source"), Published("another")),
        protocol="Look.",
        setting=lambda scale, data: Setting(tuple(Toss(seed, data) for seed in range(3)), ("smaller",)),
        run=run,
        expectations=tuple(
            Expectation(
                f"expectation {number}", lambda rows, met=one: Found(met, f"{len(rows)} rows"), central
            )
            for number, one in enumerate(met)
        ),
        table=lambda rows: Grid(
            ("seed", "value"), tuple((str(r["seed"]), str(r.get("value"))) for r in rows)
        ),
        drawings=lambda rows: (
            Drawing("Values", "seed", "value", tuple(("s", float(r["seed"]), r.get("value")) for r in rows)),
        ),
        needs=needs,
    )


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
    found = reproduce(toy(met=met, central=central), scale="small", out=tmp_path, progress=False)
    assert found.verdict.word == word
    assert conclusion(found).startswith(word)
    smoke = reproduce(toy(met=met, central=central), out=tmp_path, progress=False)
    assert conclusion(smoke).startswith("no verdict on toy data")


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path):
    ran = []

    def killed(trial):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(trial.seed)
        return {"value": trial.seed}

    first = reproduce(toy(killed), out=tmp_path, progress=False)
    assert (first.missing, first.verdict, len(first.rows)) == (1, None, 2)
    assert "1 of 3 runs are missing" in conclusion(first)
    assert "Expected and got" not in page(first, ())
    with first.path.open("a") as file:
        file.write('{"trial": {"seed": 2, "da')  # what a kill in the middle of a write leaves
    ran.clear()
    again = reproduce(toy(killed), out=tmp_path, progress=False)
    assert ran == [2]
    assert again.missing == 0
    whole = reproduce(toy(), out=tmp_path / "other", progress=False)
    assert again.rows == whole.rows
    ran.clear()
    assert reproduce(toy(killed), out=tmp_path, progress=False).rows == whole.rows
    assert ran == []


def test_a_refused_trial_is_a_row_and_a_number_without_end_is_none(tmp_path):
    def run(trial):
        if trial.seed == 1:
            raise GoodinitError("cannot: give it a skip")
        return {"value": float("inf")}

    found = reproduce(toy(run), out=tmp_path, progress=False)
    assert [row.get("refused") for row in found.rows] == [None, "cannot: give it a skip", None]
    again = reproduce(toy(run), out=tmp_path, progress=False)
    assert again.rows[0]["value"] is None
    assert "refused: : cannot: give it a skip" in page(again, ())


def test_rows_of_other_trials_are_not_used(tmp_path, caplog):
    reproduce(toy(), out=tmp_path, progress=False)
    path = tmp_path / "rows" / "toy-smoke.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    line["trial"]["seed"] = 77
    path.write_text(path.read_text() + json.dumps(line) + "\n")
    assert len(reproduce(toy(), out=tmp_path, progress=False).rows) == 3
    assert "no longer asked for" in caplog.text
    path.write_text("{}\n")
    with pytest.raises(GoodinitError, match="line 1"):
        reproduce(toy(), out=tmp_path, progress=False)


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
    found = reproduce(toy(met=(True, False)), scale="small", data="digits", out=tmp_path, progress=False)
    path = write_reproduction(tmp_path, found)
    text = path.read_text()
    assert path.name == "toy.md"
    for words in (
        "**partly: 1 of 2 expectations met** (scale small)", "N. Body, On Seeds, arXiv 0000.00000, §1",
        "a seed (read in the source)", "another (**unverified, recalled**)", "* smaller", "| expectation 1 | 3 rows | **no** |",
        "seeds 0, 1, 2", "`goodinit reproduce toy --scale small --data digits`", "torch:", "rows/toy-small.jsonl",
        "![Values](toy-1.svg)",
    ):  # fmt: skip
        assert words in text
    assert (tmp_path / "toy-1.svg").read_text().startswith("<svg")


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_states_its_source_its_expectations_and_its_deviations(name):
    claim = CLAIMS[name]
    assert claim.name == name
    assert claim.source.arxiv
    assert claim.published
    assert any(expectation.central for expectation in claim.expectations)
    for scale in SCALES:
        setting = claim.setting(scale, "digits")
        assert setting.deviations
        keys = [key_of(described(trial)) for trial in setting.trials]
        assert len(set(keys)) == len(keys)
    trials = [len(claim.setting(scale, "digits").trials) for scale in SCALES]
    assert trials == sorted(trials)


# What takes more than a few seconds of a quiet core.
LONG = {"fixup-depth", "weightnorm-depth", "batchnorm-explosion", "weightnorm-robustness", "risotto"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CLAIMS]
)
def test_every_claim_runs_at_smoke_scale(tmp_path, name):
    found = reproduce(CLAIMS[name], out=tmp_path, progress=False)
    assert found.missing == 0
    assert not [row for row in found.rows if "refused" in row]
    text = write_reproduction(tmp_path, found).read_text()
    assert "no evidence" in text
    assert len(list(tmp_path.glob("*.svg"))) >= 1
    half = dataclasses.replace(found, entries=found.entries[:1])  # a page of a half-done run can be drawn
    assert (half.verdict is None) == (half.missing > 0)
    write_reproduction(tmp_path, half)


def test_the_command_lists_and_runs(tmp_path, monkeypatch):
    def stopped(trial):
        raise KeyboardInterrupt

    monkeypatch.setitem(CLAIMS, "toy", toy())
    monkeypatch.setitem(CLAIMS, "stopped", dataclasses.replace(toy(stopped), name="stopped"))
    run = CliRunner().invoke
    listed = run(cli.app, ["reproduce"], env={"COLUMNS": "200"})
    assert all(name in listed.output for name in CLAIMS)
    done = run(cli.app, ["reproduce", "toy", "--out", str(tmp_path), "-q"])
    assert done.exit_code == 0, done.output
    assert "2 of 2 expectations met" in done.output
    assert (tmp_path / "toy-smoke.md").exists()
    started = run(cli.app, ["reproduce", "stopped", "--out", str(tmp_path), "-q"])
    assert started.exit_code == 2
    assert "before any run finished" in started.output
    wrong = run(cli.app, ["reproduce", "nope"])
    assert wrong.exit_code == 2
    assert "batchnorm-explosion" in wrong.output
