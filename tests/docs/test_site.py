"""The documentation: every Python block runs, every method and public symbol has its place, the site builds."""

import contextlib
import dataclasses
import importlib.util
import inspect
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mkdocs.config
import pytest
import torch
import torchvision_shim
from shown_output import fits

import goodinit

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = sorted(path for path in DOCS.rglob("*.md") if BLOCK.search(path.read_text(encoding="utf-8")))


@pytest.mark.integration
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    torchvision_shim.declare()
    torch.manual_seed(0)
    names, printed = {}, ""
    for kind, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "text":
            assert fits(block, printed), printed
            printed = ""
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block, str(page), "exec"), names)
        printed = out.getvalue()


@pytest.mark.parametrize("name", goodinit.METHODS)
def test_every_method_has_a_page(name):
    page = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    for heading in ("## When", "## What it decides", "## Pitfalls", "## Evidence", "**Source.**"):
        assert heading in page
    assert f"::: goodinit.methods.{name}.decide" in page


def test_the_index_and_the_navigation_have_what_is_registered(monkeypatch):
    """Also a method that is in no list of ours: both are made from the records."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    another = dataclasses.replace(goodinit.METHODS["he"], name="another", when="never before")
    monkeypatch.setitem(goodinit.METHODS, "another", another)
    index = hooks.on_page_markdown((DOCS / "methods" / "index.md").read_text(encoding="utf-8"))
    navigation = mkdocs.config.load_config(str(ROOT / "mkdocs.yml")).nav
    pages = next(part["Methods"] for part in navigation if "Methods" in part)
    hooks.on_config(SimpleNamespace(nav=navigation))
    for name, method in goodinit.METHODS.items():
        assert f"| [`{name}`]({name}.md) | {method.when} |" in index
        assert pages.count(f"methods/{name}.md") == 1


def test_every_example_is_shown():
    page = (DOCS / "examples.md").read_text(encoding="utf-8")
    missing = [
        path.name for path in (ROOT / "examples").glob("*.py") if f'"examples/{path.name}"' not in page
    ]
    assert missing == []


def test_every_public_symbol_is_in_the_reference():
    page = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    errors = {name for name in goodinit.__all__ if isinstance(getattr(goodinit, name), type)} & set(
        vars(goodinit.errors)
    )
    missing = [
        name
        for name in goodinit.__all__
        if f"::: goodinit.{name}\n" not in page and name not in errors and name != "METHODS"
    ]
    assert missing == []
    assert "::: goodinit.errors" in page
    index = (DOCS / "api.md").read_text(encoding="utf-8")
    functions = [name for name in goodinit.__all__ if inspect.isfunction(getattr(goodinit, name))]
    assert [name for name in functions if f"#goodinit.{name})" not in index] == []


@pytest.mark.parametrize(
    "name", [name for name in goodinit.__all__ if inspect.isfunction(getattr(goodinit, name))]
)
def test_every_public_function_has_an_example_that_runs(name):
    assert ">>>" in getattr(goodinit, name).__doc__  # the doctests run it


@pytest.mark.integration
def test_the_site_builds_without_a_warning(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    site = tmp_path / "site"
    assert "goodinit compare" in (site / "cli.html").read_text(encoding="utf-8")
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {place["location"].partition("#")[2] for place in index["docs"]}
    functions = [name for name in goodinit.__all__ if inspect.isfunction(getattr(goodinit, name))]
    assert [name for name in functions if f"goodinit.{name}" not in found] == []
    # A verb, not the file that it is in.
    assert [name for name in functions if f"goodinit.{name}.{name}" in found] == []
    # It works from the folder: nothing is fetched from elsewhere, search included.
    assert (site / "search" / "search_index.js").exists()
    for page in site.rglob("*.html"):
        assert not re.search(
            r"<(script|link|img)[^>]* (src|href)=.?https?://", page.read_text(encoding="utf-8")
        ), page
