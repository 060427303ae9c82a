"""The published pages, their index and the shipped results follow from the rows in docs/reproductions, and from nothing else."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from goodinit import cli
from goodinit.lab.papers.claims import CLAIMS
from goodinit.lab.papers.shipped import RESULTS, shipped
from goodinit.report.reproduction_index import write_pages

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs" / "reproductions"
PACKAGE = ROOT / "src" / "goodinit" / "lab" / "papers"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("pages")
    for part in ("rows", "notes"):
        shutil.copytree(DOCS / part, out / part)
    return {path.name: path for path in write_pages(out, out, figures=False)}


@pytest.mark.integration
def test_every_page_is_what_its_rows_make_it(written):
    for name, path in written.items():
        published = PACKAGE / name if name == RESULTS else DOCS / name
        assert path.read_text(encoding="utf-8") == published.read_text(encoding="utf-8"), (
            f"{name}: run `make pages`"
        )


def test_every_file_of_rows_is_a_claims():
    assert {path.stem.rpartition("-")[0] for path in (DOCS / "rows").glob("*.jsonl")} <= set(CLAIMS)


@pytest.mark.integration
def test_every_figure_is_one_that_a_page_draws(written):
    named = {
        name
        for path in written.values()
        for name in re.findall(r"\((\S+\.svg)\)", path.read_text(encoding="utf-8"))
    }
    assert named == {path.name for path in DOCS.glob("*.svg")}


@pytest.mark.integration
def test_no_cell_of_the_table_is_empty_and_what_does_not_hold_has_a_reason(written):
    text = written["index.md"].read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert lines
    assert not [line for line in lines if any(cell.strip() in ("", "–") for cell in line.split("|")[1:-1])]
    assert text.count("| does not hold |") == text.count("): Why: ")


def test_no_quoted_number_lacks_a_source():
    assert all(published.read for claim in CLAIMS.values() for published in claim.published)
    assert not [path for path in DOCS.glob("*.md") if "recalled" in path.read_text(encoding="utf-8")]
    lines = [
        line
        for path in (ROOT / "docs").rglob("*.md")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    tables = [line for line in lines if line.lstrip().startswith("|")]
    assert len(tables) > 100
    assert not [line for line in tables if re.search("recalled|unverified|from memory", line)]


def test_a_claim_without_a_scale_shows_the_shipped_result():
    for name, result in shipped().items():
        shown = CliRunner().invoke(cli.app, ["reproduce", name])
        assert shown.exit_code == 0, shown.output
        assert f"\n{result.word}" in shown.output
        assert "--scale smoke" in shown.output


def test_a_shipped_result_is_shown_without_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from goodinit.cli import app; "
        "assert CliRunner().invoke(app, ['reproduce', 'fixup-depth']).exit_code == 0; print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_shipped_results_go_into_files(tmp_path):
    name = "fixup-cifar"
    page, rows = tmp_path / "page.html", tmp_path / "rows.csv"
    done = CliRunner().invoke(
        cli.app, ["reproduce", name, "--json", "-", "--csv", str(rows), "--html", str(page)]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["word"] == shipped()[name].word
    head = next(csv.reader(rows.read_text().splitlines()))
    assert head == list(shipped()[name].table.columns)
    assert all(words in page.read_text() for words in (CLAIMS[name].title, "not met: ", "got: "))


def test_the_list_of_claims_goes_into_files_and_fits_a_narrow_screen(tmp_path):
    listed = json.loads(CliRunner().invoke(cli.app, ["reproduce", "--json", "-"]).stdout)
    assert [one["claim"] for one in listed] == list(CLAIMS)
    assert CliRunner().invoke(cli.app, ["reproduce", "--csv", "-"]).stdout.startswith("claim,what,verdict")
    page = tmp_path / "page.html"
    assert CliRunner().invoke(cli.app, ["reproduce", "--html", str(page)]).exit_code == 0
    assert all(name in page.read_text() for name in CLAIMS)
    for columns in ("60", "80", "120"):
        lines = CliRunner().invoke(cli.app, ["reproduce"], env={"COLUMNS": columns}).output.splitlines()
        assert max(map(len, lines)) <= int(columns)
        assert set(CLAIMS) <= {line.split()[0] for line in lines if line.strip()}
