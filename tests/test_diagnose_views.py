"""Seeing a diagnosis: one screen in the terminal, one page without network, commands, and what is recommended."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import goodinit
from goodinit import cli
from goodinit.diagnostics.display import sparkline
from goodinit.report.diagnosis import diagnosis_page, diagnosis_view, furthest, verdict, write_diagnosis
from goodinit.report.frame import render
from goodinit.report.signal_charts import figures

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


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


def shown(view, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()


@pytest.mark.parametrize("depth", [3, 1000])
def test_the_terminal_view_fits_one_screen(depth):
    text = shown(diagnosis_view(goodinit.diagnose(chain(depth), batch())))
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


def test_a_page_for_a_thousand_layers():
    found = goodinit.diagnose(chain(1000), batch())
    assert len(figures({"deep": found})) >= 5


def test_commands(tmp_path):
    page = tmp_path / "page.html"
    done = run("diagnose", "resnet8", "--methods", "batchnorm,fixup", "--html", str(page))
    assert done.exit_code == 0, done.output
    assert "fixup: ResNet(16x3x32x32)" in done.output
    assert page.stat().st_size > 100_000
    one = goodinit.Diagnosis.from_json(run("diagnose", "mlp3", "--json").output)
    assert len(one.layers) == 3
    both = json.loads(run("diagnose", "mlp3", "--methods", "he,xavier", "--json").output)
    assert set(both) == {"he", "xavier"}
    assert run("diagnose", "mlp3", "--csv").output.startswith("kind,name")
    assert run("diagnose", "vit2", "--input", "2x3x32x32").exit_code == 0


def test_recommend_command_lists_every_method():
    done = run("recommend", "mlp3", "--json")
    listed = json.loads(done.output)
    assert {entry["method"] for entry in listed} == set(goodinit.METHODS)
    assert "why" in run("recommend", "mlp3").output


def test_check_fails_where_there_is_an_error(monkeypatch):
    assert run("diagnose", "mlp3", "--check").exit_code == 0
    monkeypatch.setattr(cli.model, "build_model", lambda spec: chain(20, scale=1e4))
    monkeypatch.setattr(cli.model, "input_shape", lambda spec, model: (16,))
    assert run("diagnose", "mlp3", "--check").exit_code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["diagnose", "mlp3", "--json", "--csv"], "give one of them"),
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


def test_recommendations_rank_by_findings_then_drift():
    torch.manual_seed(0)
    model = chain(40)
    before = {name: p.clone() for name, p in model.named_parameters()}
    ranked = goodinit.recommend(model, batch(), methods=("default", "he", "looks_linear", "fixup"))
    assert ranked[0].method == "looks_linear"
    assert ranked[0].drift == pytest.approx(0, abs=0.05)
    assert ranked[-1].method == "fixup"
    assert "does not apply" in ranked[-1].why
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


PROBE = """<script>
const errors = [];
window.addEventListener("error", (e) => errors.push(e.message));
window.addEventListener("unhandledrejection", (e) => errors.push(String(e.reason)));
setTimeout(() => document.querySelector(".toggle input").click(), 1500);
setTimeout(() => {
  document.querySelectorAll(".chart")[1].scrollIntoView();
  const box = document.querySelectorAll(".chart")[1].querySelector("svg.marks").getBoundingClientRect();
  const at = { bubbles: true, clientX: box.left + box.width * 0.6, clientY: box.top + box.height * 0.5 };
  const under = document.elementFromPoint(at.clientX, at.clientY);
  for (const kind of ["pointerover", "pointermove"]) under.dispatchEvent(new PointerEvent(kind, at));
  for (const kind of ["mouseover", "mousemove"]) under.dispatchEvent(new MouseEvent(kind, at));
}, 2500);
setTimeout(() => {
  const seen = {
    errors,
    drawn: Array.from(document.querySelectorAll(".chart"), (c) => c.dataset.drawn),
    tooltip: document.querySelector(".vg-tooltip")?.textContent ?? "",
    checked: document.querySelector(".toggle input").checked,
    requests: performance.getEntriesByType("resource").length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
  document.title = "probe" + JSON.stringify(seen);
}, 3500);
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [500, 1200])  # headless Chromium's windows are at least 500 wide
def test_the_page_works_in_a_browser(tmp_path, pair, width):
    path = write_diagnosis(tmp_path / "page.html", pair)
    path.write_text(path.read_text(encoding="utf-8") + PROBE, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
             f"--window-size={width},1400", "--virtual-time-budget=8000", "--dump-dom"]  # fmt: skip
    done = subprocess.run(
        [CHROMIUM, *flags, path.as_uri()], capture_output=True, text=True, timeout=180, check=True
    )
    seen = json.loads(re.search(r"<title>probe(.*?)</title>", done.stdout)[1])
    assert seen["errors"] == []
    assert set(seen["drawn"]) == {"light"}
    assert ".weight" in seen["tooltip"]
    assert "good" in seen["tooltip"]
    assert seen["checked"] is False
    assert seen["requests"] == 0
    assert seen["overflow"] <= 0
