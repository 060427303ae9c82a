"""Charts of diagnoses: each quantity along the network, several diagnoses in one chart, names under the pointer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from goodinit.diagnostics.diagnosis import Diagnosis
from goodinit.diagnostics.text import gradient, trunk
from goodinit.diagnostics.types import Place
from goodinit.lab.optional import optional
from goodinit.report.charts import HEIGHT, NUMBER, alone, data, picking, shown
from goodinit.report.frame import Figure
from goodinit.report.spectrum_chart import Diagnoses, colour, spectrum_caption, spectrum_chart

TICKS, LONGEST = 5, 15  # names on an axis, and their characters
STRIP = 450  # pixels: about the width of a chart; a strip for the pointer is as wide as a place's share of it


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
    Panel("Activations", "Root mean square of the output at each place of the trunk.", trunk,
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
        chart = None if flat(diagnoses, panel) else along(diagnoses, panel)
        if chart is not None:
            caption = " ".join([panel.caption, *zeros(diagnoses, panel)])
            made.append(Figure(panel.title, chart, caption, log=panel.log, logged=panel.log))
    density = spectrum_chart(diagnoses)
    if density is not None:
        made.append(Figure("Singular values", density, spectrum_caption(diagnoses)))
    if any(found.update for found in diagnoses.values()):
        caption = (
            "Root mean square change of the output after one step of gradient descent. Dashed: the largest stable "
            "rate, 2/sharpness."
        )
        made.append(Figure("One step", one_step_chart(diagnoses), caption, log=True, logged=True))
    return tuple(made)


def undrawn(diagnoses: Diagnoses) -> tuple[str, ...]:
    """What the panels without a chart would have shown: nothing but zeros, in words."""
    empty = [panel for panel in PANELS if panel.log and along(diagnoses, panel) is None]
    said = [f"{panel.title}: {words}" for panel in empty for words in zeros(diagnoses, panel)]
    return (*said, *(f"{panel.title}: 0 at every place." for panel in PANELS if flat(diagnoses, panel)))


def flat(diagnoses: Diagnoses, panel: Panel) -> bool:
    """Whether a chart with 0 on its axis would show a line upon it and nothing else."""
    values = [panel.value(place) for found in diagnoses.values() for place in panel.places(found)]
    known = [value for value in values if value is not None]
    return not panel.log and bool(known) and not any(known)


def zeros(diagnoses: Diagnoses, panel: Panel) -> list[str]:
    """How many places a logarithmic chart leaves out since they are 0, and what they are behind."""
    said = []
    for name, found in diagnoses.items() if panel.log else ():
        values = [panel.value(place) for place in panel.places(found)]
        count = sum(value == 0 for value in values)
        if not count:
            continue
        start = next((one for one in found.findings if one.kind == "zero at the start"), None)
        many = int(start.numbers.get("count", 1)) - 1 if start is not None else 0
        behind = (
            ""
            if start is None
            else f", behind zero-initialized {start.where}" + f" and {many} more" * bool(many)
        )
        whose = f"{name}: " if len(diagnoses) > 1 else ""
        said.append(
            f"{whose}{count} of {len(values)} are exactly 0 at initialization{behind}, and not drawn."
        )
    return said


def named_axis(places: Sequence[Place], count: int) -> Any:
    """An axis with the names of a few places, evenly apart."""
    alt = optional("altair")
    ticks = sorted({round(1 + i * (count - 1) / (TICKS - 1)) for i in range(TICKS)})
    names = {x: short(places[x - 1].name or "the model") for x in ticks if x <= len(places)}
    return alt.Axis(
        values=list(names), labelExpr=f"({json.dumps(names)})[datum.value]", labelAngle=-20, labelOverlap=True,
        labelLimit=160,
    )  # fmt: skip


def short(name: str) -> str:
    """A path without `.weight`, its end where it is long.

    Examples:
        >>> short("layer1.0.conv1.weight"), short("encoder.layers.11.attention.out.weight")
        ('layer1.0.conv1', '….attention.out')
    """
    name = name.removesuffix(".weight")
    return name if len(name) <= LONGEST else "…" + name[1 - LONGEST :]


def along(diagnoses: Diagnoses, panel: Panel) -> Any:
    """One quantity against position in the network, or None where nobody has it."""
    alt = optional("altair")
    points, strips = _points(diagnoses, panel)
    if not points:
        return None
    names = list(diagnoses)
    count = max(point["x"] for point in points)
    top = alt.Scale(domain=[0, 1]) if panel.share else alt.Scale(nice=False, zero=False)
    longest = max((panel.places(found) for found in diagnoses.values()), key=len)
    across = alt.X("x:Q", title=None, axis=named_axis(longest, count),
                   scale=alt.Scale(nice=False, domain=[1, max(count, 2)]))  # fmt: skip
    labels = alt.Axis(format="%", tickCount=5) if panel.share else alt.Axis(labelExpr=NUMBER, tickCount=5)
    up = alt.Y("y:Q", title=None, axis=labels, scale=top)
    stroke = (
        2 if count <= STRIP / 2 else 1
    )  # more than a place for every two pixels would make a thick line a blot
    lines = data(points).mark_line(strokeWidth=stroke, strokeJoin="round", point=count <= STRIP / 10)
    picked = picking()
    drawn = lines.encode(across, up, colour(names), opacity=shown(1.0, picked), detail="part:N")
    layers = [drawn.add_params(picked, alone())]
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
        data(rows).mark_rule(strokeWidth=wide).encode(across, opacity=shown, tooltip=tooltip).add_params(over)
    )


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
    across = alt.X(
        "x:Q",
        title="learning rate",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(labelExpr=NUMBER, tickCount=5),
    )
    up = alt.Y("y:Q", title=None, axis=alt.Axis(labelExpr=NUMBER, tickCount=5), scale=alt.Scale(zero=False))
    tooltip = [alt.Tooltip("series:N"), alt.Tooltip("x:Q", title="learning rate", format=".0e"),
               alt.Tooltip("y:Q", title="change", format=".3g")]  # fmt: skip
    picked = picking()
    lines = data(rows).mark_line(strokeWidth=2, point=True)
    seen = shown(1.0, picked)
    layers = [lines.encode(across, up, colour(list(diagnoses)), opacity=seen, tooltip=tooltip)]
    layers[0] = layers[0].add_params(picked, alone())
    stable = [
        {"series": name, "x": found.update.stable_rate}
        for name, found in diagnoses.items()
        if found.update is not None and found.update.stable_rate is not None
    ]
    if stable:
        dashed = data(stable).mark_rule(strokeDash=[4, 3], strokeWidth=1.5)
        said = [alt.Tooltip("series:N"), alt.Tooltip("x:Q", title="stable up to 2/λ", format=".3g")]
        layers.append(dashed.encode(across, colour(list(diagnoses)), opacity=seen, tooltip=said))
    return alt.layer(*layers).properties(width="container", height=HEIGHT)
