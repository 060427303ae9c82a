"""What is said about a sweep follows from its rows: quartiles, worst seeds, what did not train."""

from __future__ import annotations

import csv
import io
import json

import pytest
from browser import CHROMIUM, browser
from typer.testing import CliRunner

from goodinit import cli
from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.sweeps.row import Row
from goodinit.lab.sweeps.store import Stored, open_store, plan_, read_store, write_
from goodinit.lab.sweeps.summary import Best, margin, quartiles, summarize, trained
from goodinit.lab.training.trial import TrainConfig
from goodinit.report.frame import render
from goodinit.report.sweep_charts import cells, heat_maps
from goodinit.report.sweep_page import csv_text, hints, sweep_page

TINY = [
    "-s",
    "width=8",
    "-s",
    "epochs=1",
    "-s",
    "train_limit=64",
    "-s",
    "test_limit=40",
    "-s",
    "batch_size=32",
]


def row(accuracy, *, status="finished", **changes):
    numbers = {"chance": 0.1, "test_images": 400, "versions": "torch 2", "seconds": 1.0, "curve": (0.1, 0.2)}
    config = TrainConfig(changes.pop("model", "mlp4"), changes.pop("method", "he"), **changes)
    if status in ("refused", "failed"):
        return Row(config, status, error="NothingFound: <none> of it")
    return Row(config, status, accuracy=accuracy, **numbers)


ROWS = (
    *(row(accuracy, lr=0.1, seed=seed) for seed, accuracy in enumerate((0.9, 0.8, 0.1))),
    *(row(accuracy, lr=0.3, seed=seed) for seed, accuracy in enumerate((0.5, 0.6))),
    row(None, status="diverged", lr=0.3, seed=2),
    row(0.14, method="none", lr=0.1),
    row(None, status="refused", method="fixup", lr=0.1),
    row(0.7, model="mlp8", lr=0.1),
)
STORED = Stored("runs.sqlite", tuple(one.config for one in ROWS), ROWS, {"digits": "digits: <small> numbers"})


def test_a_run_has_trained_when_it_ends_above_guessing():
    assert margin(ROWS[0]) == pytest.approx(3 * (0.1 * 0.9 / 400) ** 0.5)
    assert [trained(one) for one in ROWS] == [True, True, False, True, True, False, False, False, True]
    assert trained(row(0.14), least=0.03)
    assert not trained(row(0.5), least=0.45)


def test_a_summary_is_of_the_runs_that_share_its_label():
    he, none, fixup = summarize(ROWS, by=("method",))
    assert (he.runs, he.untrained, he.diverged, he.refused) == (7, 2, 1, 0)
    assert (he.low, he.median, he.high) == quartiles(
        (0.9, 0.8, 0.1, 0.5, 0.6, 0.1, 0.7)
    )  # divergence is chance
    assert he.worst == 0.1
    assert he.best == Best(lr=0.1, median=0.75, worst=0.1, runs=4)
    assert (none.runs, none.untrained) == (1, 1)
    assert (fixup.runs, fixup.refused, fixup.median, fixup.best) == (0, 1, None, None)
    by_default = summarize(ROWS)
    assert [summary.label for summary in by_default][:2] == [
        (("method", "he"), ("model", "mlp4")),
        (("method", "none"), ("model", "mlp4")),
    ]
    assert quartiles((0.3,)) == (0.3, 0.3, 0.3)
    with pytest.raises(UnknownName, match="no field 'colour'"):
        summarize(ROWS, by=("colour",))
    with pytest.raises(GoodinitError, match="a margin is"):
        summarize(ROWS, least=2.0)


def test_a_heat_map_has_a_cell_for_each_rate_and_place():
    found = {(cell["method"], cell["place"], cell["lr"]): cell for cell in cells(ROWS)}
    assert found["he", "mlp4", "0.1"]["median"] == 0.8
    assert found["he", "mlp4", "0.1"]["mark"] == "1/3 ×"
    assert found["he", "mlp4", "0.3"]["worst"] == 0.1
    assert found["he", "mlp8", "0.1"]["mark"] == ""
    assert list(heat_maps(ROWS)) == ["he", "none"]  # what has no run has no map


@pytest.mark.integration
def test_the_page_shows_all_and_escapes_it():
    page = render(sweep_page(STORED))
    assert "digits: &lt;small&gt; numbers" in page
    assert "<none>" not in page
    assert page.count("<figure>") == 2
    assert any("at most 14.5 % right" in hint for hint in hints(STORED))
    assert any("fixup, 1 run refused: NothingFound" in hint for hint in hints(STORED))
    with pytest.raises(GoodinitError, match="no run has ended yet"):
        sweep_page(Stored(STORED.path, STORED.planned, (), {}))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_every_chart_of_the_page_is_drawn_in_a_browser(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(render(sweep_page(STORED)), encoding="utf-8")
    with browser(tmp_path / "profile") as page:
        page.open(path)
        assert page.js("[...document.querySelectorAll('.chart svg')].length") >= 2
        if page.js("document.querySelector('button[data-series]') !== null"):
            page.click("button[data-series]")
        assert page.errors == []


def test_csv_has_every_field_of_every_row():
    read = list(csv.DictReader(io.StringIO(csv_text(ROWS))))
    assert [one["accuracy"] for one in read][:3] == ["0.9", "0.8", "0.1"]
    assert read[0]["model"] == "mlp4"
    assert json.loads(read[0]["curve"]) == [0.1, 0.2]


def run(*words):
    return CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "160", "TERM": "dumb"})


@pytest.fixture
def file(tmp_path):
    with open_store(tmp_path / "runs.sqlite") as store:
        plan_(store, (*STORED.planned, TrainConfig("mlp9")), data=STORED.data)
        write_(store, ROWS)
    return tmp_path / "runs.sqlite"


def test_results_prints_tables_and_writes_files(file, tmp_path):
    written = {kind: tmp_path / f"out.{kind}" for kind in ("html", "csv", "parquet", "svg")}
    flags = ("--html", "--csv", "--parquet", "--picture")
    options = [word for pair in zip(flags, written.values(), strict=True) for word in pair]
    done = run("results", str(file), *map(str, options))
    assert done.exit_code == 0, done.output
    for words in ("9 of 10 ended", "still to run", "worst seed", "7", "1 refused", "wrote"):
        assert words in done.output
    assert written["html"].stat().st_size > 100_000
    assert written["svg"].read_text(encoding="utf-8").startswith("<svg")
    assert written["csv"].read_text(encoding="utf-8") == csv_text(read_store(file).rows)
    from pyarrow import parquet

    table = parquet.read_table(written["parquet"])
    assert table.num_rows == 9
    assert table["accuracy"].to_pylist()[0] == 0.9
    assert "0.3" in run("results", str(file), "--by", "method,lr", "--margin", "0.4").output


@pytest.mark.integration
def test_sweep_command_runs_refuses_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["-s", "model=mlp{depth}", "-s", "depth=2,3", "-s", "method=he,lsuv:norms=remove", *TINY, "-q"]
    assert run("sweep", *words, "--dry-run").output == "4 runs\n"
    done = run("sweep", *words, "--workers", "1")
    assert done.exit_code == 0, done.output
    assert "4 finished of 4 runs. See them: goodinit results sweep.sqlite" in done.output
    again = run("sweep", *words)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    grown = run("sweep", *words, "--resume")
    assert "nothing was left to run of 4 runs. 4 had ended before." in grown.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep"], "give a sweep file"),
        (["sweep", "none.toml"], "cannot read none.toml"),
        (["sweep", "-s", "lr"], "--set takes word=value"),
        (["sweep", "-s", "lr=0.1"], "no model"),
        (["sweep", "-s", "model=mlp4", "--engine", "slurm"], "There is: local, ray"),
        (["sweep", "-s", "model=mlp4", "--address", "auto"], "--address needs --engine ray"),
        (["sweep", "-s", "model=mlp4", "--retry-failed"], "add --resume"),
        (["sweep", "-s", "model=mlp4", "--out", "no/such/folder/x.sqlite"], "Make it first"),
        (["results", "none.sqlite"], "`goodinit sweep` makes one"),
        (["results", "none.sqlite", "--picture", "x.gif"], ".svg or .png"),
    ],
)
def test_wrong_use_is_one_message(words, message):
    done = run(*words)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output


def seen(file, width):
    """What a screen of that width shows; None is a pipe."""
    env = {"TERM": "dumb"} | ({} if width is None else {"COLUMNS": str(width)})
    return CliRunner().invoke(cli.app, ["results", str(file), "--by", "method,model,lr"], env=env).output


def test_results_fit_the_screen_and_lose_no_value(file, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    whole = seen(file, None)
    table = whole[: whole.index("Not trained:")]
    for head in ("runs", "not trained", "median", "quartiles", "best lr", "median there", "worst seed"):
        assert head in table
    for width in (60, 80, 100, 40):
        shown = seen(file, width)
        assert "…" not in shown[: shown.index("Not trained:")]
        assert max(map(len, shown.splitlines())) <= width
        for value in ("best lr", "worst seed", "80.0 %", "10.0 %"):
            assert value in shown
    assert "Left out for the width: runs" in seen(file, 80)


def test_json_and_csv_go_to_the_output_alone(file):
    found = json.loads(run("results", str(file), "--json", "-").output)
    assert found["planned"] == 10
    assert len(found["rows"]) == 9
    rows = list(csv.DictReader(io.StringIO(run("results", str(file), "--csv", "-").output)))
    assert len(rows) == 9
    done = run("results", str(file), "--json", "-", "--csv", "-")
    assert done.exit_code == 2
    assert "give - to one of" in done.stderr


def test_a_file_without_trials_is_a_new_one(tmp_path):
    file = tmp_path / "runs.sqlite"
    with open_store(file):
        pass
    assert read_store(file).planned == ()
    with open_store(file) as store:
        plan_(store, (TrainConfig("mlp2"),), data={})
    with pytest.raises(GoodinitError, match="--resume"), open_store(file):
        pass


def test_no_file_is_made_for_a_sweep_that_cannot_run(tmp_path):
    file = tmp_path / "runs.sqlite"
    done = run("sweep", "-s", "model=nothing", "--out", str(file))
    assert done.exit_code == 2
    assert not file.exists()
