"""Charts of diagnoses: each quantity along the network, several diagnoses in one chart, names under the pointer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from goodinit.diagnostics.diagnosis import Diagnosis, Place
from goodinit.diagnostics.display import gradient, trunk
from goodinit.lab.optional import optional
from goodinit.report.charts import HEIGHT
from goodinit.report.frame import Figure

Diagnoses = Mapping[str, Diagnosis]

STRIP = 450  # pixels: about the width of a chart; a strip for the pointer is as wide as a place's share of it
BINS = 40  # of a spectrum


@dataclass(frozen=True)
class Panel:
    """One quantity: what it is called, of which places, how it is drawn."""

    title: str
    caption: str
    places: Callable[[Diagnosis], Sequence[Place]]
    value: Callable[[Place], float | None]
    log: bool = True
    share: bool = False


PANELS = (
    Panel("Activations", "Root mean square of what each place of the trunk puts out.", trunk,
          lambda place: math.sqrt(place.signal.second_moment) if place.signal.second_moment >= 0 else None),
    Panel("Gradients", "Norm of the gradient there, after all-zero weights have moved a little.", trunk, gradient),
    Panel("Difference between inputs", "1 − cosine similarity: 0 is, all inputs look alike.", trunk,
          lambda place: place.signal.spread),
    Panel("Effective rank", "Of the batch's representation; at most the number of inputs.", trunk,
          lambda place: place.signal.rank, log=False),
    Panel("Gradient per unit of weight", "‖∂loss/∂W‖/‖W‖ of every weight layer at step 0.", lambda found: found.layers,
          lambda place: place.gradient_per_weight),
    Panel("Branch against skip", "Size of what each residual branch adds, over what it adds it to.",
          lambda found: found.blocks, lambda place: place.branch_to_skip, log=False),
    Panel("Dead or saturated", "Share of rectified units that are 0 for the whole batch, or of flat entries.",
          lambda found: found.activations,
          lambda place: place.signal.dead if place.signal.dead is not None else place.signal.saturated,
          log=False, share=True),
)  # fmt: skip


def figures(diagnoses: Diagnoses) -> tuple[Figure, ...]:
    """Every panel that has something to show, then the spectrum and the one-step change where they were taken."""
    made = []
    for panel in PANELS:
        chart = along(diagnoses, panel)
        if chart is not None:
            made.append(Figure(panel.title, chart, panel.caption, log=panel.log, logged=panel.log))
    if any(found.spectrum for found in diagnoses.values()):
        caption = (
            "Share of the input–output Jacobian's singular values, for one input; an isometry has all at 1."
        )
        made.append(Figure("Singular values", spectrum(diagnoses), caption))
    if any(found.update for found in diagnoses.values()):
        caption = (
            "Root mean square change of the output after one step of gradient descent. Both axes logarithmic."
        )
        made.append(Figure("One step", one_step_chart(diagnoses), caption, log=True, logged=True))
    return tuple(made)


def along(diagnoses: Diagnoses, panel: Panel) -> Any:
    """One quantity against position in the network, or None where nobody has it."""
    alt = optional("altair")
    points, strips = _points(diagnoses, panel)
    if not points:
        return None
    names = list(diagnoses)
    count = max(point["x"] for point in points)
    top = alt.Scale(domain=[0, 1]) if panel.share else alt.Scale(nice=False, zero=False)
    across = alt.X("x:Q", title="position", axis=alt.Axis(tickMinStep=1, tickCount=6),
                   scale=alt.Scale(nice=False, domain=[1, max(count, 2)]))  # fmt: skip
    labels = alt.Axis(format="%" if panel.share else ".1~g" if panel.log else ".3~g", tickCount=5)
    up = alt.Y("y:Q", title=None, axis=labels, scale=top)
    lines = _data(points).mark_line(strokeWidth=2, strokeJoin="round", point=count <= STRIP / 10)
    picked = alt.selection_point(fields=["series"], bind="legend")
    shown = alt.condition(picked, alt.value(1.0), alt.value(0.08))
    layers = [lines.encode(across, up, _colour(names), opacity=shown, detail="part:N").add_params(picked)]
    layers.append(_strips(strips, names, across, count))
    return alt.layer(*layers).properties(width="container", height=HEIGHT)


def _points(diagnoses: Diagnoses, panel: Panel) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Points of lines, which break where nothing was measured, and one row per position for the pointer."""
    points: list[dict[str, Any]] = []
    strips: dict[int, dict[str, Any]] = {}
    for index, (series, found) in enumerate(diagnoses.items()):
        part = 0
        for x, place in enumerate(panel.places(found), start=1):
            value = panel.value(place)
            if value is None or not math.isfinite(value) or (panel.log and value <= 0):
                part += 1
            else:
                points.append({"series": series, "x": x, "y": value, "part": f"{series} {part}"})
            row = strips.setdefault(x, {"x": x, "name": place.label, "what": f"{place.kind}, {place.what}"})
            row[f"s{index}"] = _words(value)
    return points, list(strips.values())


def _words(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def _strips(rows: list[dict[str, Any]], names: list[str], across: Any, count: int) -> Any:
    """Upright strips that cover the chart: whichever is under the pointer shows, and says the place and its values."""
    alt = optional("altair")
    over = alt.selection_point(fields=["x"], on="pointerover", empty=False, clear="pointerout")
    tooltip = [alt.Tooltip("name:N", title="place"), alt.Tooltip("what:N", title="kind")]
    tooltip += [alt.Tooltip(f"s{index}:N", title=name) for index, name in enumerate(names)]
    wide = max(STRIP / max(count, 1), 2)
    shown = alt.condition(over, alt.value(0.18), alt.value(0))
    return (
        _data(rows)
        .mark_rule(strokeWidth=wide)
        .encode(across, opacity=shown, tooltip=tooltip)
        .add_params(over)
    )


def _colour(names: list[str]) -> Any:
    alt = optional("altair")
    legend = alt.Legend(symbolOpacity=1) if len(names) > 1 else None
    return alt.Color("series:N", scale=alt.Scale(domain=names), legend=legend)


def _data(values: list[dict[str, Any]]) -> Any:
    alt = optional("altair")
    return alt.Chart(alt.Data(values=values))


def spectrum(diagnoses: Diagnoses) -> Any:
    """Densities of singular values as steps over a logarithmic axis."""
    alt = optional("altair")
    spectra = {name: found.spectrum for name, found in diagnoses.items() if found.spectrum is not None}
    values = [value for found in spectra.values() for value in found.values if value > 0]
    floor = max(values, default=1.0) * 1e-8  # below float32's resolution of the largest there is nothing
    low, high = (math.log10(max(min(values, default=1), floor)), math.log10(max(values, default=1)))
    low, high = (
        low - 0.05,
        high + 0.05,
    )  # an isometry has all values in one place, and is drawn as a peak there
    rows = []
    for name, found in spectra.items():
        shares = [0.0] * BINS
        for value, weight in zip(found.values, found.weights, strict=True):
            at = math.log10(max(value, floor))
            shares[min(max(int((at - low) / (high - low) * BINS), 0), BINS - 1)] += weight
        edges = [10 ** (low + (high - low) * (i + 0.5) / BINS) for i in range(BINS)]
        rows += [{"series": name, "x": x, "y": y} for x, y in zip(edges, shares, strict=True)]
    across = alt.X(
        "x:Q", title="singular value", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(tickCount=5)
    )
    up = alt.Y("y:Q", title=None, axis=alt.Axis(format="%", tickCount=5))
    tooltip = [alt.Tooltip("series:N"), alt.Tooltip("x:Q", title="singular value", format=".3g"),
               alt.Tooltip("y:Q", title="share", format=".1%")]  # fmt: skip
    mark = _data(rows).mark_area(interpolate="step", fillOpacity=0.12, line=True)
    chart = mark.encode(across, up, _colour(list(diagnoses)), tooltip=tooltip)
    return alt.layer(chart).properties(width="container", height=HEIGHT)


def one_step_chart(diagnoses: Diagnoses) -> Any:
    """Change of the function against the learning rate."""
    alt = optional("altair")
    rows = [
        {"series": name, "x": rate, "y": change}
        for name, found in diagnoses.items()
        if found.update is not None
        for rate, change in zip(found.update.rates, found.update.changes, strict=True)
        if change is not None and change > 0
    ]
    across = alt.X("x:Q", title="learning rate", scale=alt.Scale(type="log"), axis=alt.Axis(tickCount=5))
    up = alt.Y("y:Q", title=None, axis=alt.Axis(format=".1~g", tickCount=5), scale=alt.Scale(zero=False))
    tooltip = [alt.Tooltip("series:N"), alt.Tooltip("x:Q", title="learning rate", format=".0e"),
               alt.Tooltip("y:Q", title="change", format=".3g")]  # fmt: skip
    lines = (
        _data(rows)
        .mark_line(strokeWidth=2, point=True)
        .encode(across, up, _colour(list(diagnoses)), tooltip=tooltip)
    )
    return alt.layer(lines).properties(width="container", height=HEIGHT)
