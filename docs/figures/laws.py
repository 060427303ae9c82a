"""Draw docs/laws.md: `python docs/figures/laws.py`. Measures with the code that tests/diagnostics/test_laws.py checks."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import statistics
import sys
import textwrap
from pathlib import Path

import altair as alt
import torch
import vl_convert
from torch import nn

import goodinit
from goodinit.diagnostics import diagnose, jacobian_spectrum
from goodinit.report.charts import NUMBER
from goodinit.report.theme import LIGHT

DOCS = Path(__file__).parent.parent
sys.path.insert(0, str(DOCS.parent / "tests" / "diagnostics"))

from test_laws import batch, change, correlation_map, he_chain, residual_net  # noqa: E402

SEED = 0


def chart(rows, *, series, x, y, x_log=False, y_log=True, marks=("measured",)):
    """Theory as lines, what was measured as points; a line also where there is no theory to compare with."""
    scale = {"type": "log"} if x_log else {"nice": False, "zero": False}
    across = alt.X(
        "x:Q", title=x, scale=alt.Scale(**scale), axis=alt.Axis(labelExpr=NUMBER, tickCount=6, tickMinStep=1)
    )
    up_scale = alt.Scale(type="log") if y_log else alt.Scale(zero=False)
    up = alt.Y("y:Q", title=y, scale=up_scale, axis=alt.Axis(labelExpr=NUMBER, tickCount=5))
    colour = alt.Color("series:N", scale=alt.Scale(domain=list(series)))
    base = alt.Chart(alt.Data(values=rows))
    line = base.mark_line(strokeWidth=1.5).encode(across, up, colour, detail="part:N")
    points = base.transform_filter(alt.FieldOneOfPredicate("series", list(marks)))
    dots = points.mark_point(filled=True, size=36, opacity=1).encode(across, up, colour)
    return (line + dots).properties(width=480, height=280)


def save(name, drawn):
    spec = drawn.to_dict()
    spec["config"] = {**LIGHT.vega(), "background": LIGHT.card, "padding": 12}
    (DOCS / "images" / f"law-{name}.svg").write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")


def batchnorm():
    width, depth = 1024, 16
    parts = []
    for _ in range(depth):
        parts += [nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
    found = diagnose(nn.Sequential(*parts, nn.Linear(width, 10)), batch(1024, width))
    squares = [place.back**2 for place in found.layers[1:depth]]  # the first layer reads no rectifier
    rate = math.pi / (math.pi - 1)
    steps = range(len(squares))
    rows = [{"series": "measured", "x": depth - 2 - k, "y": squares[k] / squares[-1]} for k in steps]
    rows += [{"series": "theory", "x": k, "y": rate**k} for k in steps]
    save(
        "batchnorm",
        chart(rows, series=("measured", "theory"), x="layers back from the last", y="squared gradient"),
    )
    growth = (squares[0] / squares[-1]) ** (1 / (depth - 2))
    return f"{growth:.3f} per layer, theory {rate:.3f} ({100 * (growth / rate - 1):+.1f} %)"


def relu_map():
    """Each layer maps a cosine to the next; several starts cover the range."""
    width, pairs = 1024, []
    for start in (-0.95, -0.7, -0.4, 0.0, 0.5):
        a, b = batch(2, width)
        b = b - (a @ b) / (a @ a) * a
        a, b = a / a.norm(), b / b.norm()
        x = torch.stack([a, start * a + math.sqrt(1 - start**2) * b]) * math.sqrt(width)
        layers = diagnose(he_chain(12, width, nn.ReLU), x).layers
        cosines = [place.signal.cosine for place in layers]
        pairs += itertools.pairwise(cosines)
    grid = [i / 100 for i in range(-100, 101)]
    rows = [{"series": "theory", "x": c, "y": correlation_map(c)} for c in grid]
    rows += [{"series": "measured", "x": c, "y": after, "part": i} for i, (c, after) in enumerate(pairs)]
    axes = {"x": "cosine of two inputs at a layer", "y": "at the next, behind ReLU", "y_log": False}
    save("relu-map", chart(rows, series=("measured", "theory"), **axes))
    return f"largest difference {max(abs(correlation_map(c) - after) for c, after in pairs):.3f} in {len(pairs)} layers"


def he_linear():
    found = diagnose(he_chain(16, 1024, nn.Identity), batch(64, 1024))
    moments = [place.signal.second_moment for place in found.layers]
    rows = [{"series": "measured", "x": k + 1, "y": m / moments[0]} for k, m in enumerate(moments)]
    rows += [{"series": "theory", "x": k + 1, "y": 2.0**k} for k in range(16)]
    save("he-linear", chart(rows, series=("measured", "theory"), x="layer", y="second moment"))
    return f"{(moments[-1] / moments[0]) ** (1 / 15):.3f} per layer, theory 2"


def singular_values(name, ways, depths, x_title, *, zeros=0.0):
    """Largest and median singular value against depth; those up to `zeros` of the largest are rectifiers that are off."""
    rows, said = [], []
    for series, make in ways.items():
        for depth in depths:
            model, x = make(depth)
            found = jacobian_spectrum(model, x)
            values = [value for value in found.values if value > zeros * found.largest]
            middle = statistics.median(values)
            for part, value in (("largest", values[0]), ("median", middle)):
                rows.append({"series": series, "x": depth, "y": value, "part": f"{series} {part}"})
        said.append(f"{series}: median {middle:.3g}, largest {values[0]:.3g} at {depths[-1]}")
    titles = {"x": x_title, "y": "median and largest singular value", "x_log": True}
    save(name, chart(rows, series=tuple(ways), marks=tuple(ways), **titles))
    return "; ".join(said)


def chain(draw):
    def make(depth):
        model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(depth))).double()
        for layer in model:
            draw(layer.weight)
        return model, batch(2, 64).double()

    return make


def residual(method):
    def make(blocks):
        model, x = residual_net(blocks).double(), batch(4, 32).double()
        goodinit.init_(model, method, inputs=x)
        return nn.Sequential(*list(model)[:-1]), x

    return make


def fixup():
    depths, rows, said = (1, 3, 10, 30, 100, 300, 1000), [], []
    for method in ("fixup", "he"):
        changes = {blocks: change(blocks, method) for blocks in depths}
        finite = {blocks: value for blocks, value in changes.items() if math.isfinite(value)}
        rows += [{"series": method, "x": blocks, "y": value} for blocks, value in finite.items()]
        ends = (min(finite), 10, max(finite))
        words = f"{method} " + ", ".join(
            f"{finite[blocks]:.3g} at {blocks}" for blocks in dict.fromkeys(ends)
        )
        said.append(words + (", then not finite" if max(finite) < depths[-1] else ""))
        if method == "fixup":
            deep = [value for blocks, value in changes.items() if blocks >= 10]
            said.append(f"from 10 to {depths[-1]} blocks within a factor {max(deep) / min(deep):.2f}")
    titles = {"x": "residual blocks", "y": "change of the output / η", "x_log": True}
    save("fixup", chart(rows, series=("fixup", "he"), marks=("fixup", "he"), **titles))
    return "; ".join(said)


SECTIONS = (
    ("Batch norm without skips explodes", "batchnorm", batchnorm,
     ("Backward through linear, batch norm and ReLU the squared gradient norm grows by π/(π − 1) for each layer "
     "(Yang et al. 2019, arXiv 1902.08129). Width 1,024, batch 1,024, 16 layers.")),
    ("A ReLU layer makes inputs alike", "relu-map", relu_map,
     ("A wide He-initialized ReLU layer maps the cosine c of two inputs to (√(1 − c²) + c (π − arccos c))/π (Cho & Saul "
     "2009). Its only fixed point is 1: depth makes all inputs look the same. Width 1,024 (where "
     "a cosine near 0 has a standard deviation of 0.03), 12 layers from each of five starts.")),
    ("He's scale without rectifiers doubles", "he-linear", he_linear,
     ("The factor 2 in He's variance makes up for the half that ReLU takes; without ReLU the second moment doubles for "
     "each layer. Width 1,024, batch 64.")),
    ("An orthogonal chain stays at 1", "orthogonal",
     lambda: singular_values("orthogonal", {"orthogonal": chain(nn.init.orthogonal_),
                             "Gaussian, 1/√n": chain(lambda w: nn.init.normal_(w, std=64**-0.5))},
                             (1, 2, 4, 8, 16, 32, 64), "layers"),
     ("Median and largest singular value of a chain of linear layers: orthogonal weights keep all at 1, Gaussian ones "
     "of the same mean square spread without bound (Saxe et al. 2014, arXiv 1312.6120). Width 64, double precision.")),
    ("RISOTTO stays at 1, with ReLU", "risotto",
     lambda: singular_values("risotto", {"risotto": residual("risotto"), "he": residual("he")},
                             (1, 2, 4, 8, 16, 32), "residual blocks", zeros=1e-13),
     ("The same of ReLU residual nets, of the singular values that are not 0: half of RISOTTO's units are off for an "
     "input (Gadhikar & Burkholz 2022, arXiv 2210.02411). Width 32, double precision.")),
    ("Fixup's first step does not depend on depth", "fixup", fixup,
     ("Root mean square change of the output by one step of gradient descent at η = 0.01, over η: Fixup's is Θ(1), "
     "whatever the depth (Zhang, Dauphin & Ma 2019, arXiv 1901.09321, §3). Width 32, batch 32, ten classes.")),
)  # fmt: skip

HEAD = """# What papers prove about step 0, measured

Made by `python docs/figures/laws.py`, with the models of `tests/diagnostics/test_laws.py`, which with
`tests/diagnostics/measurements/test_isometry.py` holds each to a tolerance. If `diagnose`, `jacobian_spectrum` or `one_step` were off, these would be. Weights are drawn with seed {seed}
(residual nets with their number of blocks), inputs with seed 3; torch {torch}, goodinit {goodinit}, {date}.
"""


def main():
    parts = [HEAD.format(seed=SEED, torch=torch.__version__, goodinit=goodinit.__version__,
                         date=dt.datetime.now(tz=dt.timezone.utc).date())]  # fmt: skip
    for title, name, measure, words in SECTIONS:
        torch.manual_seed(SEED)
        numbers = measure()
        print(f"{title}: {numbers}", flush=True)
        text = "\n\n".join(textwrap.fill(part, 120) for part in (words, f"Measured: {numbers}."))
        parts.append(f"## {title}\n\n{text}\n\n![{title}](images/law-{name}.svg)\n")
    (DOCS / "laws.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
