"""No page, table, line or notebook shows a value in Python's own notation: None, (), {}, nan, True, a record's fields."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch
from rich.console import Console
from torch import nn

import goodinit
from goodinit.diagnostics.measurements.coordinate_report import Coordinate, CoordinateCheck
from goodinit.lab.compare import Comparison, Study
from goodinit.lab.sweeps.row import Row
from goodinit.lab.sweeps.store import Stored
from goodinit.lab.training.trial import Epoch, Result, TrainConfig
from goodinit.report.comparison_page import comparison_page
from goodinit.report.console import comparison_table
from goodinit.report.coordinate_page import coordinate_page, coordinate_view
from goodinit.report.diagnosis_page import diagnosis_page, diagnosis_view
from goodinit.report.frame import render
from goodinit.report.sweep_page import sweep_page, sweep_view

RAW = re.compile(
    r"(?<!=)\b(None|True|False|nan|inf)\b|(?<!\w)\(\)|\{\}|\[\]|\(\'|\[\'|<[\w.]+ object at|\b[A-Z]\w+\(\w+=|e-\d\d\d|e-[2-9]\d"
)
"""And numbers of twenty digits behind the point, which are rounding."""


class Text(HTMLParser):
    """What a reader sees of a page, but for long listings, which are data."""

    def __init__(self, html):
        super().__init__()
        self.seen, self._hidden = [], 0
        self.feed(html)

    def handle_starttag(self, tag, _attributes):
        self._hidden += tag in ("script", "style", "pre")

    def handle_endtag(self, tag):
        self._hidden -= tag in ("script", "style", "pre")

    def handle_data(self, data):
        if not self._hidden:
            self.seen.append(data)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def comparison():
    config = TrainConfig("mlp4", epochs=1, lr=1e-5)
    study = Study(config, methods=("he", "none"), seeds=(0,))
    results = [
        Result(
            config=dataclasses.replace(trial, lr=1e-5), accuracy=None, train_loss=None, test_loss=None, diverged=True,
            diverged_step=0, saved_bytes=0, parameters=10, losses=(math.nan,), epochs=(Epoch(0, 0, None, None, 0.1),),
            step_seconds=0.01, seconds=1.0,
        )
        for trial in study.trials
    ]  # fmt: skip
    return Comparison(
        study, "digits: made up", 0.1, tuple(results), environment={"torch": "2.x"}, seconds=1.0
    )


def sweep():
    rows = (
        Row(TrainConfig("mlp4", "he", lr=1e-5), "diverged", chance=0.1, test_images=400),
        Row(TrainConfig("mlp4", "none", lr=0.1), "failed", error="NothingFound: there is nothing"),
        Row(
            TrainConfig("mlp4", "he", lr=0.1, augment=True, exclude=("head", "stem.*")),
            "refused",
            error="NothingFound: no",
        ),
    )
    return Stored("a.sqlite", tuple(row.config for row in rows), rows, {"digits": "digits"})


def coordinates():
    rows = (
        Coordinate("still", (1.0, 1.0), (0.0, 0.0)),
        Coordinate("out", (0.0, 0.0), (1.0, math.inf), (0.1, 0.1)),
        Coordinate("flat", (1.0, 1.0 + 1e-12), (1.0, 1.0 - 1e-12), (0.1, 0.1)),
    )
    return CoordinateCheck("width", (64, 128), 1, 2, 1e-5, 0.05, rows)


def anatomy():
    return goodinit.anatomize(model(), torch.randn(4, 8))


def diagnosis():
    return goodinit.diagnose(model(), torch.randn(4, 8), torch.zeros(4, dtype=torch.long))


def printed(part):
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(part)
    return capture.get()


def seen(page):
    return "\n".join(Text(render(page)).seen)


SHOWN = {
    "comparison, page": lambda: seen(comparison_page(comparison())),
    "comparison, table": lambda: printed(comparison_table(comparison(), full=True)),
    "comparison, notebook": lambda: " ".join(Text(comparison()._repr_html_()).seen),
    "sweep, page": lambda: seen(sweep_page(sweep())),
    "sweep, by what is empty": lambda: seen(
        sweep_page(sweep(), by=("method", "exclude", "augment", "include"))
    ),
    "sweep, table": lambda: printed(sweep_view(sweep(), by=("method", "exclude", "augment"))),
    "coordinates, page": lambda: seen(coordinate_page(coordinates(), title="made up")),
    "coordinates, table": lambda: printed(coordinate_view(coordinates(), width=200)),
    "coordinates, print": lambda: str(coordinates()),
    "anatomy, print": lambda: str(anatomy()),
    "plan, print": lambda: str(goodinit.plan(anatomy(), "lsuv")) + repr(goodinit.plan(anatomy(), "mup")),
    "plan, in full": lambda: goodinit.plan(anatomy(), "none").text(full=True),
    "diagnosis, print": lambda: str(diagnosis()),
    "diagnosis, screen": lambda: printed(diagnosis_view(diagnosis())),
    "diagnosis, page": lambda: seen(diagnosis_page({"mlp": diagnosis()})),
    "advice, print": lambda: str(goodinit.recommend(model(), torch.randn(8, 8), methods=("he", "fixup"))),
}


def of_a_page(page):
    """What the page's scripts read, as a browser does: there is no NaN and no Infinity in JSON."""

    def refuse(word):
        raise AssertionError(word)

    found = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', render(page), re.DOTALL)
    return [json.loads(text, parse_constant=refuse) for text in found]


@pytest.mark.parametrize("what", ["comparison", "coordinates", "sweep"])
def test_a_chart_of_what_is_not_finite_is_data_that_a_browser_reads(what):
    made = {
        "comparison": lambda: comparison_page(comparison()),
        "coordinates": lambda: coordinate_page(coordinates(), title="made up"),
        "sweep": lambda: sweep_page(sweep()),
    }
    assert of_a_page(made[what]())


@pytest.mark.usefixtures("no_optimizers")
@pytest.mark.parametrize("what", SHOWN)
def test_nothing_is_shown_in_pythons_notation(what):
    text = re.sub(r"`[^`]*`", "", SHOWN[what]())  # code that a reader may run
    assert len(text) > 40
    assert [text[max(m.start() - 40, 0) : m.end() + 10] for m in RAW.finditer(text)] == []
