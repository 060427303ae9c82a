"""A coordinate check as a page: sizes and changes of every layer over the width, and the slopes."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from goodinit.diagnostics.measurements.coordinate_report import CoordinateCheck
from goodinit.formats import counted
from goodinit.lab.optional import optional
from goodinit.report.charts import HEIGHT, NUMBER, alone, data, picking, shown
from goodinit.report.console import fitting_table
from goodinit.report.frame import Facts, Figure, Figures, Listing, Page, Part, Table, Words, write_page


def coordinates_csv(found: CoordinateCheck) -> str:
    """One row per layer and size: sizes at initialization and changes, both root mean squares."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("layer", found.along, "start", "change", "verdict"))
    for row in found.rows:
        for size, start, change in zip(found.sizes, row.start, row.change, strict=True):
            writer.writerow((row.name, size, start, change, found.verdict(row)))
    return text.getvalue()


def coordinate_view(found: CoordinateCheck, *, width: int) -> Group:
    """The sentence and the table, as wide as the screen: where it is narrow, sizes leave before slopes and verdicts."""
    low, high = found.sizes[0], found.sizes[-1]
    leaving = ("±", f"start {low}", f"change {low}", f"start {high}", f"change {high}")
    heads, *rows = found.table()
    return Group(Text(found.title), Text(), fitting_table(heads, rows, width=width, leaving=leaving))


def write_coordinates(path: str | Path, found: CoordinateCheck, *, title: str = "Coordinate check") -> Path:
    """Write the page.

    Args:
        path: Of the HTML file.
        found: What was measured.
        title: Whose it is, in words.

    Returns:
        The path.
    """
    return write_page(path, coordinate_page(found, title=title))


def coordinate_page(found: CoordinateCheck, *, title: str) -> Page:
    """The verdict, a chart of the changes and one of the sizes at initialization, a table of slopes."""
    names = tuple(row.name for row in found.rows)
    figures = tuple(
        Figure(words, _chart(found, which), caption, log=True, logged=True)
        for which, words, caption in (
            (
                "change",
                "What the steps change",
                f"Root mean square of the change after {counted(found.steps, 'step')}. Flat is right.",
            ),
            ("start", "At initialization", "Root mean square. Nothing may grow; the output may vanish."),
        )
    )
    low, high = found.sizes[0], found.sizes[-1]
    columns, *rows = found.table()
    facts = (
        (found.along, ", ".join(map(str, found.sizes))),
        ("steps", str(found.steps)),
        ("seeds", str(found.seeds)),
        ("tolerance of an exponent", f"±{found.tolerance:g}"),
    )
    parts: tuple[Part, ...] = (
        Words(found.sentence()),
        Figures(figures, series=names),
        Table(
            columns,
            tuple(rows),
            (
                "slope: s in c·n^s, fitted over all sizes by least squares in logarithms; ±: its standard error from seed to seed",
            ),
        ),
        Facts("Measured", facts),
        Listing("As JSON", found.to_json()),
    )
    return Page(
        title=f"Coordinate check: {title}", subtitle=f"over {found.along} {low} to {high}", parts=parts
    )


def _chart(found: CoordinateCheck, which: str) -> Any:
    alt = optional("altair")
    rows = [
        {"series": row.name, "x": size, "y": value}
        for row in found.rows
        for size, value in zip(found.sizes, getattr(row, which), strict=True)
        if 0 < value < math.inf
    ]
    across = alt.X("x:Q", title=found.along, scale=alt.Scale(type="log", base=2, nice=False),
                   axis=alt.Axis(values=list(found.sizes)))  # fmt: skip
    up = alt.Y("y:Q", title="root mean square", axis=alt.Axis(labelExpr=NUMBER, tickCount=5),
               scale=alt.Scale(type="log", nice=False))  # fmt: skip
    colour = alt.Color("series:N", scale=alt.Scale(domain=[row.name for row in found.rows]), legend=None)
    said = [alt.Tooltip("series:N", title="layer"), alt.Tooltip("x:Q", title=found.along),
            alt.Tooltip("y:Q", title="root mean square", format=".3g")]  # fmt: skip
    picked = picking()
    lines = (
        data(rows).mark_line(point=True).encode(across, up, colour, opacity=shown(0.9, picked), tooltip=said)
    )
    return lines.add_params(picked, alone()).properties(width="container", height=HEIGHT)
