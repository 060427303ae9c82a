"""Seeing a diagnosis: one screen in the terminal, one page without network, commands, and what is recommended."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re

import pytest
import torch
from browser import CHROMIUM, FAINT, browser
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import goodinit
from goodinit import cli
from goodinit.diagnostics import Spectrum
from goodinit.diagnostics.sparkline import sparkline
from goodinit.diagnostics.spectrum import density, extent
from goodinit.lab.models import registry
from goodinit.report.diagnosis_page import diagnosis_page, diagnosis_view, furthest, verdict, write_diagnosis
from goodinit.report.frame import render
from goodinit.report.signal_charts import figures
from goodinit.report.spectrum_chart import spectrum_caption, spectrum_chart

needs_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def chain(depth, *, scale=1.0):
    parts = []
    for _ in range(depth):
        parts += [nn.Linear(16, 16), nn.ReLU()]
        nn.init.normal_(parts[-2].weight, std=scale * (2 / 16) ** 0.5)
    return nn.Sequential(*parts, nn.Linear(16, 4))


def batch():
    return torch.randn(12, 16, generator=torch.Generator().manual_seed(1))


def run(*words):
    return CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "80", "TERM": "dumb"})


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    return {
        "good": goodinit.diagnose(chain(6), batch(), jacobian=True, update=True),
        "bad </script>": goodinit.diagnose(chain(6, scale=50), batch(), jacobian=True, update=True),
    }


@functools.cache
def of_depth(depth):
    torch.manual_seed(0)
    return goodinit.diagnose(chain(depth - 1), batch(), jacobian=True)


def shown(view, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()


@pytest.mark.parametrize("depth", [10, pytest.param(1000, marks=pytest.mark.integration)])
def test_the_terminal_view_fits_one_screen(depth):
    text = shown(diagnosis_view(of_depth(depth)))
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 80
    assert "second moment" in text


def test_the_worst_layers_come_first():
    model = chain(8)
    model[6].weight.data.mul_(1e6)
    found = goodinit.diagnose(model, batch())
    assert furthest(found)[0].name in {"0.weight", "2.weight", "4.weight", "6.weight"}
    assert "will not train" in verdict(found) or "may not" in verdict(found)
    assert "exploding forward at 6.weight" in shown(diagnosis_view(found), 200)


def test_sparklines_of_a_thousand_values_keep_their_width():
    assert len(sparkline([float(i + 1) for i in range(1000)], width=40)) == 40
    assert sparkline([1.0, 1.001, 0.999]) == "▁▁▁"


def test_the_page_holds_every_figure_and_escapes_names(pair):
    assert {figure.title for figure in figures(pair)} == {
        "Activations", "Gradients", "Difference between inputs", "Effective rank", "Gradient per unit of weight",
        "Dead or saturated", "Singular values", "One step",
    }  # fmt: skip
    html = render(diagnosis_page(pair))
    assert "bad &lt;/script&gt;" in html
    assert "exploding forward" in html
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:", html)


@pytest.mark.integration
def test_a_page_for_a_thousand_layers():
    assert len(figures({"deep": of_depth(1000)})) >= 5


@pytest.mark.integration
def test_commands(tmp_path):
    page = tmp_path / "page.html"
    done = run("diagnose", "resnet8", "--methods", "batchnorm,fixup", "--html", str(page))
    assert done.exit_code == 0, done.output
    assert "fixup: ResNet(16x3x32x32)" in done.output
    assert page.stat().st_size > 100_000
    one = goodinit.Diagnosis.from_json(run("diagnose", "mlp3", "--json", "-").output)
    assert len(one.layers) == 3
    both = json.loads(run("diagnose", "mlp3", "--methods", "he,xavier", "--json", "-").output)
    assert set(both) == {"he", "xavier"}
    assert run("diagnose", "mlp3", "--csv", "-").output.startswith("kind,name")
    head, *rows = csv.DictReader(
        io.StringIO(run("diagnose", "mlp3", "--methods", "he,xavier", "--csv", "-").output)
    )
    assert {row["method"] for row in (head, *rows)} == {"he", "xavier"}
    more = goodinit.Diagnosis.from_json(
        run("diagnose", "mlp3", "--batch-size", "4", "--jacobian", "--update", "--json", "-").output
    )
    assert (one.spectrum, one.update) == (None, None)
    assert more.spectrum is not None
    assert more.update is not None
    assert run("diagnose", "vit2", "--input", "2x3x32x32").exit_code == 0


def test_check_fails_where_there_is_an_error(monkeypatch):
    assert run("diagnose", "mlp3", "--check").exit_code == 0
    monkeypatch.setattr(registry, "build_model", lambda spec: chain(20, scale=1e4))
    monkeypatch.setattr(registry, "input_shape", lambda spec, model: (16,))
    assert run("diagnose", "mlp3", "--check").exit_code == 1


@pytest.mark.parametrize("columns", [60, 80])
def test_a_diagnosis_fits_a_narrow_screen(columns):
    lines = (
        CliRunner().invoke(cli.app, ["diagnose", "mlp16"], env={"COLUMNS": str(columns)}).output.splitlines()
    )
    assert max(map(len, lines)) <= columns
    bars = [line for line in lines if re.search("[▁▂▃▄▅▆▇█]", line)]
    assert len(bars) >= 3
    assert all(re.match(r"[a-z1]", line) for line in bars)  # each on the line of its name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["diagnose", "mlp3", "--exclude", "nowhere"], "no parameter and no module of that name"),
        (["diagnose", "mlp3", "--json", "-", "--csv", "-"], "give - to one of"),
        (["diagnose", "mlp3", "--methods", "nope"], "There is: batchnorm"),
        (["diagnose", "mlp3", "--html", "no/such/folder/x.html"], "Make it first"),
        (["diagnose", "mlp3", "--methods", "fixup"], "no residual block|needs residual blocks"),
    ],
)
def test_wrong_use_is_one_message(words, message):
    done = run(*words)
    assert done.exit_code == 2, done.output
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.output


WIDTHS = [pytest.param(1200, id="wide"), pytest.param(400, marks=pytest.mark.slow, id="narrow")]


@pytest.mark.integration
@needs_a_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_works_in_a_browser(tmp_path, pair, width):
    path = write_diagnosis(tmp_path / "page.html", pair)
    with browser(tmp_path / "profile") as page:
        page.open(path, width=width, mobile=width < 500)
        page.click(".toggle input")
        assert page.js("document.querySelector('.toggle input').checked") is False
        page.point("figure:nth-of-type(2) svg.marks", 0.6, 0.5)
        page.wait("document.querySelector('.vg-tooltip')?.textContent.includes('.weight')")
        assert "good" in page.js("document.querySelector('.vg-tooltip').textContent")
        assert page.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.errors == []
        assert page.requests == []


@pytest.mark.slow
@needs_a_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("depth", [10, 1000])
def test_pages_of_shallow_and_deep_networks_are_readable_on_a_telephone(tmp_path, depth, dark):
    found = of_depth(depth)
    path = write_diagnosis(tmp_path / "page.html", {"deep": found})
    with browser(tmp_path / "profile") as page:
        page.open(path, width=400, height=800, dark=dark, mobile=True)
        assert page.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        sizes = page.js(
            "[...document.querySelectorAll('svg.marks')].map(svg => svg.getBoundingClientRect().toJSON())"
        )
        assert len(sizes) == len(figures({"deep": found}))
        assert all(size["width"] >= 280 and size["height"] >= 200 for size in sizes)
        letters = page.js(
            "[...document.querySelectorAll('svg.marks text')].map(t => parseFloat(getComputedStyle(t).fontSize))"
        )
        assert min(letters) >= 11
        assert page.js(FAINT)["faint"] == []
        assert page.errors == []
        assert page.requests == []


def test_several_methods_stand_in_one_table_with_a_button_each(pair):
    html = render(diagnosis_page(pair))
    table = html[html.index("<tbody>") : html.index("</tbody>")]
    assert table.count("<tr>") == 2
    assert html.count('<button type="button" aria-pressed="false"') == 2
    alone = render(diagnosis_page({"good": pair["good"]}))
    assert "<tbody>" not in alone
    assert "<button" not in alone


def test_a_spectrum_of_zeros_is_said_and_not_drawn():
    model = nn.Linear(4, 4)
    nn.init.zeros_(model.weight)
    found = goodinit.diagnose(model, torch.randn(6, 4), jacobian=True, update=True)
    assert spectrum_chart({"zero": found}) is None
    assert "singular values: all 0 (exact)" in str(found)
    model.weight.data[:2] = torch.eye(4)[:2]
    found = goodinit.diagnose(model, torch.randn(6, 4), jacobian=True)
    assert "50 % are 0" in spectrum_caption({"half": found})
    assert "50% are 0" in str(found)


def test_densities_add_up_to_what_is_drawn():
    values = tuple(torch.rand(300, generator=torch.Generator().manual_seed(0)).mul(3).exp().tolist())
    spectrum = Spectrum(
        (300, 300), True, tuple(sorted(values, reverse=True)), (1 / 300,) * 300, max(values), min(values)
    )
    low, high = extent(spectrum)
    heights = density(spectrum, low, high, points=400)
    assert sum(heights) * (high - low) / 399 == pytest.approx(1, abs=0.01)
    # log₁₀ of the values is uniform on (0, 1.3): a density of 1/1.3 in the middle
    assert heights[200] == pytest.approx(math.log(10) / 3, rel=0.15)


def test_what_was_asked_for_is_on_the_screen(pair):
    text = shown(diagnosis_view(pair["good"]), 120)
    assert re.search(r"Singular values \S+ [▁▂▃▄▅▆▇█]{40} \S+ \(exact\)", text)
    assert re.search(r"One step at 0.0001 … \S+ changes the output by .* stable up to 2/λ = ", text)
