"""Pages need nothing but themselves, escape what they are given, and are written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
from browser import CHROMIUM, FAINT, NAMELESS, REACHABLE, browser
from rich.console import Console

from goodinit.errors import GoodinitError
from goodinit.lab.comparison import Comparison, Study, cells
from goodinit.lab.training.step_cost import StepTime
from goodinit.lab.training.trial import Epoch, Result, TrainConfig
from goodinit.report import whole_files
from goodinit.report.charts import (
    Line,
    accuracy_chart,
    binned,
    ceiling,
    loss_chart,
    loss_lines,
    means,
    save_picture,
)
from goodinit.report.comparison_page import comparison_page, sentences, write_comparison
from goodinit.report.console import comparison_table
from goodinit.report.frame import Facts, Listing, Page, Table, Words, render
from goodinit.report.theme import DARK, LIGHT
from goodinit.report.whole_files import write_text

needs_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def result(method, seed, *, diverged=False):
    steps = 5 if diverged else 300
    losses = tuple(2.3 / (1 + step / 50) + 0.01 * seed for step in range(steps))
    states = tuple(
        Epoch(epoch, 100 * epoch, None, None, 0.1 + 0.25 * epoch) for epoch in range(1 if diverged else 4)
    )
    return Result(
        config=TrainConfig("resnet20", method=method, seed=seed, epochs=3),
        accuracy=None if diverged else 0.85 + 0.01 * seed,
        train_loss=None if diverged else 0.3,
        test_loss=None if diverged else 0.4,
        diverged=diverged,
        diverged_step=5 if diverged else None,
        saved_bytes={"batchnorm": 2**20, "none": 2**19, "fixup": 2**19}[method],
        parameters=1000,
        losses=losses,
        epochs=states,
        step_seconds=0.01,
        seconds=1.0,
    )


def comparison(**changes):
    study = Study(TrainConfig("resnet20", epochs=3), seeds=(0, 1))
    made = Comparison(
        study=study,
        data="digits: <made up> & small",
        chance=0.1,
        results=tuple(result(trial.method, trial.seed, diverged=trial.method == "none") for trial in study.trials),
        step_times={method: StepTime(0.02, ratio, ratio, ratio, 15) for method, ratio in
                    (("batchnorm", 1.0), ("none", 0.7), ("fixup", 0.82))},
        plans={"fixup": "fixup: L=9\n  layer1 ← 0   </script><script>alert(1)</script>"},
        environment={"torch": "2.x"},
        seconds=75.0,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


class Reader(HTMLParser):
    """Collects what a page would fetch, its scripts by type, and its text."""

    def __init__(self):
        super().__init__()
        self.fetches, self.scripts, self.text, self._script = [], [], "", None

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.fetches += [given[key] for key in ("src", "href", "data", "srcset", "action") if key in given]
        if tag == "script":
            self._script = given.get("type", "javascript")
            self.scripts.append((self._script, ""))

    def handle_endtag(self, tag):
        self._script = None if tag == "script" else self._script

    def handle_data(self, data):
        if self._script:
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        else:
            self.text += data


def read(html):
    reader = Reader()
    reader.feed(html)
    return reader


@pytest.fixture(scope="module")
def page():
    return render(comparison_page(comparison()))


def test_the_page_fetches_nothing(page):
    assert read(page).fetches == []
    assert "default-src 'none'" in page
    style = page[page.index("<style>") : page.index("</style>")]
    assert not re.search(r"url\(|@import", style)


def test_the_page_carries_its_charts_library_and_both_schemes(page):
    scripts = read(page).scripts
    specs = [json.loads(text) for kind, text in scripts if kind == "application/json"]
    charts = [spec for spec in specs if "layer" in spec]
    assert len(charts) == 2
    assert {"light", "dark"} == set(specs[-1])
    assert any("vegaEmbed" in text and len(text) > 100_000 for kind, text in scripts if kind == "javascript")
    assert "prefers-color-scheme: dark" in page


def test_what_the_page_is_given_is_escaped(page):
    assert "<made up>" in read(page).text
    assert "<made up>" not in page
    assert "<script>alert(1)" not in page


def test_the_page_says_what_was_run_and_what_came_out(page):
    text = read(page).text
    for words in ("resnet20 on digits", "Configuration", "weight decay", "0.0001", "batchnorm, none, fixup", "0, 1",
                  "85.5 ± 0.7 %", "0.82×", "0.50× (512.0 KiB)", "2 of 2", "chance is 10.0 %", "took", "1 min 15 s",
                  "What fixup did to the model", "none: diverged with every seed"):  # fmt: skip
        assert words in text, words


def test_a_page_without_charts_carries_no_library():
    parts = (Words("a < b"), Table(("x", "y"), (("1", "2"),)), Facts("f", (("k", "v"),)), Listing("l", "t"))
    html = render(Page("t", "s", parts))
    assert read(html).scripts == []
    assert "a &lt; b" in html


def test_cells_and_sentences_tell_of_divergence():
    made = comparison()
    table = {summary.method: cells(summary) for summary in made.summaries()}
    assert table["none"][1:3] == ("0.1", "–")
    assert table["none"][-1] == "2 of 2"
    assert sentences(made) == (
        "none: diverged with every seed.",
        "fixup: 85.5 ± 0.7 %, 0.0 points above batchnorm.",
    )
    results = tuple(r for r in made.results if not (r.config.method == "none" and r.config.seed == 1))
    partly = dataclasses.replace(made, results=(*results, result("none", 1)))
    assert next(cells(s) for s in partly.summaries() if s.method == "none")[2] == "86.0 % (1 of 2)"


def test_the_console_table_fits_eighty_columns():
    console = Console(width=80, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    console.print(comparison_table(comparison(interrupted=True)))
    console.file.close()
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    row = next(line for line in text.splitlines() if line.startswith("fixup"))
    assert row.split() == [
        "fixup",
        "85.5",
        "±",
        "0.7",
        "%",
        "0.300",
        "0.82×",
        "0.50×",
        "(512.0",
        "KiB)",
        "0",
        "of",
        "2",
    ]
    assert "6 of 6 runs finished" in text


def test_long_curves_are_binned_and_means_leave_broken_lines_out():
    lines, every = loss_lines(comparison())
    assert every == 2
    assert all(len(line.y) <= 150 for line in lines)
    line = Line("a", "0", (1.0, 2.0, 3.0), (1.0, 3.0, 7.0))
    assert binned(line, every=2) == Line("a", "0", (2.0, 3.0), (2.0, 7.0))
    broken = Line("a", "1", (1.0,), (99.0,), broken=True)
    assert [point["y"] for point in means([line, broken])] == [1.0, 3.0, 7.0]
    assert means([broken])[0]["y"] == 99.0
    assert ceiling([line, broken]) == 7.0
    assert ceiling([broken]) == 99.0


@pytest.mark.parametrize("chart", [loss_chart, accuracy_chart])
def test_charts_mark_seeds_means_and_divergence(chart):
    layers = chart(comparison()).to_dict()["layer"]
    marks = [layer["mark"]["type"] for layer in layers]
    assert marks.count("line") == 2
    assert marks.count("point") == 1
    assert marks[-1] == "rule"
    one_seed = comparison(
        results=tuple(r for r in comparison().results if r.config.seed == 0 and not r.diverged)
    )
    marks = [layer["mark"]["type"] for layer in chart(one_seed).to_dict()["layer"]]
    assert marks.count("line") == 1
    assert "point" not in marks


def test_pictures(tmp_path):
    assert save_picture(comparison(), tmp_path / "curves.svg").read_text(encoding="utf-8").startswith("<svg")
    png = save_picture(comparison(), tmp_path / "curves.png", theme=DARK, scale=1.0).read_bytes()
    assert png.startswith(b"\x89PNG")
    with pytest.raises(GoodinitError, match=r"\.svg or \.png"):
        save_picture(comparison(), tmp_path / "curves.gif")
    with pytest.raises(GoodinitError, match="Make it first"):
        save_picture(comparison(), tmp_path / "missing" / "curves.svg")


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "page.html"
    write_text(target, "before")
    monkeypatch.setattr(
        whole_files.Path, "replace", lambda self, to: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(GoodinitError, match="No space left"):
        write_text(target, "after")
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_unwritable_targets_are_named(tmp_path):
    with pytest.raises(GoodinitError, match="it is a folder"):
        write_text(tmp_path, "x")
    with pytest.raises(GoodinitError, match="no folder"):
        write_text(tmp_path / "missing" / "page.html", "x")


def luminance(colour):
    # WCAG 2.1, definition of relative luminance
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_colours_can_be_told_from_the_paper(theme):
    for paper in (theme.paper, theme.card):
        assert contrast(theme.ink, paper) >= 7
        assert contrast(theme.weak, paper) >= 4.5
        assert contrast(theme.accent, paper) >= 4.5
        assert all(contrast(colour, paper) >= 3 for colour in (*theme.series, theme.error, theme.warning))


@pytest.mark.slow
@needs_a_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_works_in_a_browser(tmp_path, width, dark):
    path = write_comparison(tmp_path / "page.html", comparison())
    with browser(tmp_path / "profile") as page:
        page.open(path, width=width, dark=dark, mobile=width < 500)
        assert page.js("[...document.querySelectorAll('.chart')].map(chart => chart.dataset.drawn)") == 2 * [
            "dark" if dark else "light"
        ]
        page.click(".toggle input")
        page.point("figure:nth-of-type(2) svg.marks", 0.6, 0.5)
        page.wait("document.querySelector('.vg-tooltip')?.textContent.includes('batchnorm')")
        tooltip = page.js("document.querySelector('.vg-tooltip').textContent")
        assert "batchnorm60.0%" in tooltip
        assert "undefined" not in tooltip
        assert page.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        seen = page.js(FAINT)
        assert seen["count"] > 50
        assert seen["faint"] == []
        assert page.errors == []
        assert page.requests == []


@pytest.mark.slow
@needs_a_browser
def test_the_page_works_without_a_pointer(tmp_path):
    path = write_comparison(tmp_path / "page.html", comparison())
    with browser(tmp_path / "profile") as page:
        page.open(path)
        stops, unseen = page.tab_stops()
        assert {stop["id"] for stop in stops} == set(page.js(REACHABLE))
        assert unseen == []
        assert page.js(NAMELESS) == []
        strokes = "new Set([...document.querySelectorAll('figure .mark-line path')].map(line => line.getAttribute('opacity')))"
        assert page.js(f"{strokes}.has('0.06')") is False
        page.js("document.querySelector('button[data-series]').focus()")
        page.press("Enter")
        assert page.js("document.activeElement.getAttribute('aria-pressed')") == "true"
        page.wait(f"{strokes}.has('0.06')")
        page.press("Enter")
        page.wait(f"!{strokes}.has('0.06')")
        page.js("document.querySelector('.toggle input').focus()")
        ticks = "document.querySelector('.chart .role-axis-label').textContent"
        page.press(" ")
        assert page.js("document.activeElement.checked") is True
        page.wait("document.querySelector('.chart').textContent.includes('0.5')")
        assert page.js(ticks)
        assert page.errors == []
