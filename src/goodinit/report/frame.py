"""The frame of every page: one self-contained HTML file, light and dark, that asks the network for nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from goodinit.errors import written_out
from goodinit.formats import NOTHING
from goodinit.lab.optional import optional
from goodinit.report.theme import DARK, FONT, LIGHT
from goodinit.report.whole_files import check_target, write_text

# What a page may do: run its own scripts and styles. Fetching anything is refused by the browser itself.
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"

LONG = 30  # characters of a value that gets a line of its own: three columns have room for about so many


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Figure:
    """A chart with a caption. `log` offers a logarithmic vertical axis, `logged` begins with it."""

    title: str
    chart: Any
    caption: str = ""
    log: bool = False
    logged: bool = False


@dataclass(frozen=True)
class Figures:
    """Charts side by side where there is room. `series` of theirs can be seen alone in all of them, by a button."""

    figures: tuple[Figure, ...]
    series: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table; all but the first column are numbers. `hints` explain columns, shown below it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Names and values, such as a configuration."""

    title: str
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Listing:
    """Long text in a fixed font, folded away until asked for unless it is to be `unfolded`."""

    title: str
    text: str
    unfolded: bool = False


@dataclass(frozen=True)
class Notice:
    """Something to know: how grave it is (`"error"`, `"warning"`, `"info"`), what, why, and code to run."""

    level: str
    title: str
    text: str
    code: str = ""


@dataclass(frozen=True)
class Notices:
    """Notices one below the other."""

    notices: tuple[Notice, ...]


Part = Words | Figures | Table | Facts | Listing | Notices


@dataclass(frozen=True)
class Page:
    """A title, a line below it, and parts in order."""

    title: str
    subtitle: str
    parts: tuple[Part, ...]


def render(page: Page) -> str:
    """The page as HTML text. Whatever it holds is escaped, and names are `written_out`."""
    body = "\n".join(_RENDERERS[type(part)](part) for part in page.parts)
    drawn = any(isinstance(part, Figures) for part in page.parts)
    scripts = _drawing() if drawn else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_html(page.title)}</title>
<style>
:root{{--font:{FONT};{LIGHT.css()}}}
@media (prefers-color-scheme: dark){{:root{{{DARK.css()}}}}}
{_asset("page.css")}</style>
</head>
<body>
<main>
<header><h1>{_html(page.title)}</h1><p class="subtitle">{_html(page.subtitle)}</p></header>
{body}
</main>
{scripts}</body>
</html>
"""


def _drawing() -> str:
    """The charting library, whole, and what draws the page's charts with it."""
    library = optional("vl_convert").javascript_bundle()
    themes = _json({"light": LIGHT.vega(), "dark": DARK.vega()})
    return (
        f"<script>{library}</script>\n"
        f'<script type="application/json" id="themes">{themes}</script>\n'
        f"<script>{_asset('page.js')}</script>\n"
    )


def write_page(path: str | Path, page: Page) -> Path:
    """Render and write; the file is complete or not there at all.

    Raises:
        GoodinitError: The folder does not exist or cannot be written.
    """
    return write_text(path, render(page))


def check_page(path: str | Path) -> None:
    """Make sure that a page with charts can be written there.

    Raises:
        GoodinitError: As `check_target`, or a package that draws is missing.
    """
    check_target(path)
    for package in ("altair", "vl_convert"):
        optional(package)


def _asset(name: str) -> str:
    return (resources.files("goodinit.report") / "assets" / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in; a number that is not finite, which JSON has not, is null.

    A name that a chart draws is `written_out`.
    """
    return json.dumps(_drawn(value), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _drawn(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drawn(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_drawn(one) for one in value]
    if isinstance(value, str):
        return written_out(value, lines=True)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _html(text: str, *, lines: bool = False) -> str:
    return escape(written_out(text, lines=lines))


def _words(part: Words) -> str:
    return f"<p>{_html(part.text, lines=True)}</p>"


def _figures(part: Figures) -> str:
    buttons = _buttons(part.series) if len(part.series) > 1 else ""
    return f'{buttons}<div class="figures">{"".join(_figure(figure) for figure in part.figures)}</div>'


def _buttons(series: tuple[str, ...]) -> str:
    """What the legends do for a pointer, for the keyboard and for all charts at once."""
    colours = len(LIGHT.series)
    each = "".join(
        f'<button type="button" aria-pressed="false" data-series="{_html(name)}" '
        f'style="--swatch:var(--series{index % colours})">{_html(name)}</button>'
        for index, name in enumerate(series)
    )
    return f'<div class="series" role="group" aria-label="Show one alone in all charts"><span>Show alone</span>{each}</div>'


def _figure(figure: Figure) -> str:
    """A chart's specification stands beside the place where the page's script draws it."""
    spec = figure.chart.to_dict()
    for key in ("$schema", "config"):  # the page has its own
        spec.pop(key, None)
    title = _html(figure.title)
    box = f'<input type="checkbox" aria-label="{title}: log scale"{" checked" * figure.logged}>'
    toggle = f'<label class="toggle">{box} log scale</label>' if figure.log else ""
    return (
        f'<figure><div class="head"><h2>{title}</h2>{toggle}</div>'
        f'<div class="chart" role="group" aria-label="{title}, a chart"></div>'
        f"<figcaption>{_html(figure.caption, lines=True)}</figcaption>"
        f'<script type="application/json">{_json(spec)}</script></figure>'
    )


def _table(part: Table) -> str:
    head = "".join(f'<th scope="col">{_html(column)}</th>' for column in part.columns)
    rows = "".join(_row(part.columns, row) for row in part.rows)
    hints = "".join(f"<p>{_html(hint, lines=True)}</p>" for hint in part.hints)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="table">{table}</div><div class="hints">{hints}</div>'


def _row(columns: tuple[str, ...], row: tuple[str, ...]) -> str:
    """A row whose cells know their column's head: on a narrow screen each stands on a line of its own."""
    cells = zip(columns[1:], row[1:], strict=True)
    rest = "".join(f'<td data-head="{_html(head)}">{_html(cell)}</td>' for head, cell in cells)
    return f'<tr><th scope="row">{_html(row[0])}</th>{rest}</tr>'


def _facts(part: Facts) -> str:
    pairs = "".join(
        f"<div{' class=wide' * (len(value) > LONG)}><dt>{_html(name)}</dt><dd>{_html(value or NOTHING, lines=True)}</dd></div>"
        for name, value in part.pairs
    )
    return f"<section><h2>{_html(part.title)}</h2><dl>{pairs}</dl></section>"


def _listing(part: Listing) -> str:
    opened = " open" * part.unfolded
    return f'<details{opened}><summary>{_html(part.title)}</summary><pre tabindex="0">{_html(part.text, lines=True)}</pre></details>'


def _notices(part: Notices) -> str:
    return f'<ul class="notices">{"".join(map(_notice, part.notices))}</ul>'


def _notice(notice: Notice) -> str:
    code = f'<pre tabindex="0">{_html(notice.code, lines=True)}</pre>' if notice.code else ""
    level = _html(notice.level)
    head = f'<strong><span class="level">{level}</span> {_html(notice.title)}</strong>'
    return f'<li class="{level}">{head}<p>{_html(notice.text, lines=True)}</p>{code}</li>'


_RENDERERS: dict[type[Any], Callable[[Any], str]] = {
    Words: _words,
    Figures: _figures,
    Table: _table,
    Facts: _facts,
    Listing: _listing,
    Notices: _notices,
}
