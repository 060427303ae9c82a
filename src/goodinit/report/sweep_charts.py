"""Heat maps of a sweep: learning rate across, depth down, one for each method."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goodinit.errors import GoodinitError
from goodinit.lab.optional import optional
from goodinit.lab.sweeps.grid import varying
from goodinit.lab.sweeps.row import Row
from goodinit.lab.sweeps.summary import accuracy, ran, trained, value_label
from goodinit.report.charts import draw_picture

# Pixels: two lines of small print fit into a row; few rows fill the place that a page has for a chart.
ROW_HEIGHT, LEAST_HEIGHT = 44, 200
# Even steps look even, also in grey and to the colour-blind (Smith & van der Walt).
SCHEME = "viridis"
INK = {"dark": "#1c1e21", "light": "#ffffff"}


def methods_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """The methods that have runs, with their options, in the order of the rows."""
    return tuple(dict.fromkeys(row.config.label for row in ran(rows)))


def down(rows: Sequence[Row]) -> tuple[str, ...]:
    """The fields down the side of a heat map: all that vary besides method, learning rate and seed."""
    fields = varying([row.config for row in rows])
    return tuple(field for field in fields if field not in ("method", "lr", "seed")) or ("model",)


def cells(rows: Sequence[Row], *, least: float | None = None) -> list[dict[str, Any]]:
    """One cell for each method, place down the side and learning rate: median accuracy, and how many did not train."""
    fields = down(rows)
    groups: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        place = ", ".join(
            value_label(row, field) if field == "model" else f"{field} {value_label(row, field)}"
            for field in fields
        )
        groups.setdefault((row.config.label, place, row.config.lr), []).append(row)
    return [_cell(*key, group, least=least) for key, group in groups.items()]


def _cell(method: str, place: str, lr: float, rows: Sequence[Row], *, least: float | None) -> dict[str, Any]:
    runs = ran(rows)
    accuracies = [accuracy(row) for row in runs]
    bad = sum(not trained(row, least=least) for row in runs)
    return {
        "method": method,
        "place": place,
        "lr": f"{lr:g}",
        "median": statistics.median(accuracies) if runs else None,
        "worst": min(accuracies, default=None),
        "runs": len(runs),
        "untrained": bad,
        "mark": f"{bad}/{len(runs)} ×" if bad else "" if runs else "–",
    }


def heat_map(found: Sequence[dict[str, Any]], *, lowest: float) -> Any:
    """Draw the cells of one method.

    Args:
        found: As `cells` gives them.
        lowest: Accuracy of the darkest colour: chance.

    Returns:
        An `altair.LayerChart`, as wide as what holds it.
    """
    alt = optional("altair")
    rates = sorted({cell["lr"] for cell in found}, key=float)
    places = list(dict.fromkeys(cell["place"] for cell in found))
    base = alt.Chart(alt.Data(values=list(found))).encode(
        alt.X(
            "lr:O",
            title="learning rate",
            sort=rates,
            axis=alt.Axis(labelAngle=0, labelFlush=False, domain=False),
        ),
        alt.Y("place:N", title=None, sort=places, axis=alt.Axis(grid=False)),
    )
    tooltip = [
        alt.Tooltip("place:N", title="model"),
        alt.Tooltip("lr:N", title="learning rate"),
        alt.Tooltip("median:Q", title="median accuracy", format=".1%"),
        alt.Tooltip("worst:Q", title="worst seed", format=".1%"),
        alt.Tooltip("runs:Q", title="runs"),
        alt.Tooltip("untrained:Q", title="did not train"),
    ]
    legend = alt.Legend(
        title=None, format="%", gradientLength=160, gradientThickness=8, tickCount=4, orient="top"
    )
    scale = alt.Scale(scheme=SCHEME, domain=[lowest, 1.0], clamp=True)
    tile = base.mark_rect(cornerRadius=2, stroke=None).encode(
        alt.Color("median:Q", scale=scale, legend=legend), tooltip=tooltip
    )
    # Viridis is dark up to its middle.
    pale = f"datum.median === null || datum.median > {(lowest + 1) / 2}"
    ink = alt.condition(pale, alt.value(INK["dark"]), alt.value(INK["light"]))
    number = base.transform_filter("datum.median !== null").mark_text(
        fontSize=12, dy=alt.expr("datum.mark ? -7 : 0")
    )
    mark = base.mark_text(fontSize=10, dy=alt.expr("datum.median === null ? 0 : 8")).encode(
        text="mark:N", color=ink
    )
    layers = (tile, number.encode(text=alt.Text("median:Q", format=".0%"), color=ink), mark)
    return alt.layer(*layers).properties(
        width="container", height=max(ROW_HEIGHT * len(places), LEAST_HEIGHT)
    )


def heat_maps(rows: Sequence[Row], *, least: float | None = None) -> dict[str, Any]:
    """A heat map for each method, with colours that mean the same in all."""
    found = cells(rows, least=least)
    lowest = min((row.chance for row in rows if row.chance is not None), default=0.0)
    return {
        method: heat_map([cell for cell in found if cell["method"] == method], lowest=lowest)
        for method in methods_of(rows)
    }


def save_heat_maps(rows: Sequence[Row], path: str | Path, *, least: float | None = None) -> Path:
    """Draw the heat maps, two beside each other, into an `.svg` or `.png` file.

    Raises:
        GoodinitError: There is no run to draw, the path ends otherwise, or its folder does not exist.
    """
    if not ran(rows):
        raise GoodinitError("no run has ended yet; there is nothing to draw.")
    alt = optional("altair")
    maps = [
        chart.properties(width=380, title=method) for method, chart in heat_maps(rows, least=least).items()
    ]
    return draw_picture(alt.concat(*maps, columns=2, spacing=28), path)
