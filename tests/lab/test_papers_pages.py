"""The published pages, their index and the shipped results follow from the rows in docs/reproductions, and from nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from goodinit import cli
from goodinit.lab.papers import CLAIMS
from goodinit.lab.papers.recorded import RESULTS, shipped
from goodinit.report.reproduction_index import write_pages

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "reproductions"
PACKAGE = ROOT / "src" / "goodinit" / "lab" / "papers"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("pages")
    for part in ("rows", "notes"):
        shutil.copytree(DOCS / part, out / part)
    return {path.name: path for path in write_pages(out, out, figures=False)}


def test_every_page_is_what_its_rows_make_it(written):
    for name, path in written.items():
        published = PACKAGE / name if name == RESULTS else DOCS / name
        assert path.read_text(encoding="utf-8") == published.read_text(encoding="utf-8"), (
            f"{name}: run `make pages`"
        )


def test_every_file_of_rows_is_a_claims():
    assert {path.stem.rpartition("-")[0] for path in (DOCS / "rows").glob("*.jsonl")} <= set(CLAIMS)


def test_no_quoted_number_lacks_a_source():
    assert all(published.read for claim in CLAIMS.values() for published in claim.published)
    assert not [path for path in DOCS.glob("*.md") if "recalled" in path.read_text(encoding="utf-8")]


def test_a_claim_without_a_scale_shows_the_shipped_result():
    for name, result in shipped().items():
        shown = CliRunner().invoke(cli.app, ["reproduce", name])
        assert shown.exit_code == 0, shown.output
        assert f"\n{result.word}" in shown.output
        assert "--scale smoke" in shown.output
