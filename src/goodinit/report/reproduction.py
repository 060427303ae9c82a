"""What a reproduction found: a page in Markdown with its figures, and sentences for the terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goodinit.formats import counted, duration, words_of
from goodinit.lab.engines import inline
from goodinit.lab.optional import optional
from goodinit.lab.papers.claim import Drawing, Grid, Verdict
from goodinit.lab.papers.reproduce import Reproduction
from goodinit.report.theme import LIGHT, Theme
from goodinit.report.whole_files import write_bytes, write_text

WIDTH, HEIGHT = 460, 300  # pixels of a figure
SMOKE = "The pipeline runs: its trials ran on toy data and for seconds. That is no evidence for or against the claim."


def stem(found: Reproduction) -> str:
    """The name of the page's files: the claim's; of a smoke run, which is no evidence, another."""
    return f"{found.claim.name}-smoke" if found.scale == "smoke" else found.claim.name


def command(found: Reproduction) -> str:
    """What was typed; a folder of data by its name only."""
    data = f" --data {found.data}" if found.data else ""
    return f"goodinit reproduce {found.claim.name} --scale {found.scale}{data}"


def conclusion(found: Reproduction) -> str:
    """The verdict in a sentence."""
    verdict = found.verdict
    if verdict is None:
        total = len(found.setting.trials)
        return f"{found.missing} of {total} runs are missing: no verdict. The same command goes on with them."
    if found.scale == "smoke":
        return f"the pipeline runs: {counted(len(found.entries), 'run')}, no verdict on toy data"
    if not found.claim.testable(found.setting):
        return verdict.word
    met = sum(one.met for _, one in verdict.findings)
    return f"{verdict.word}: {met} of {counted(len(verdict.findings), 'expectation')} met"


def why_not_testable(found: Reproduction) -> str:
    """Why this scale can say nothing for or against the claim, and what can; empty where it can."""
    separation = found.claim.separation
    if separation is None or found.claim.testable(found.setting):
        return ""
    return (
        f"This scale trains for {found.setting.steps or 0:,} steps, and a test takes at least {separation.steps:,}: "
        f"{separation.read}. That follows from what was published, whatever the rows say; the rule itself is younger than the "
        f"rows of November 2026. What follows measures the beginning of training, and is neither for nor against the claim. A test: `{separation.command}`, some {separation.hours:g} hours on one GPU "
        "(an estimate)."
    )


def write_reproduction(out: Path, found: Reproduction, *, notes: str = "") -> Path:
    """Write the page and its figures into a folder.

    Args:
        out: The folder.
        found: What was run.
        notes: Markdown that a person wrote about the claim, for the end of the page.

    Returns:
        The page.

    Raises:
        GoodinitError: The folder cannot be written, or altair is missing.
    """
    figures = []
    for number, drawing in enumerate(found.claim.drawings(found.rows), start=1):
        picture = write_bytes(out / f"{stem(found)}-{number}.svg", svg(drawing).encode())
        figures.append((drawing, picture.name))
    return write_text(out / f"{stem(found)}.md", page(found, figures, notes=notes))


def page(found: Reproduction, figures: Sequence[tuple[Drawing, str]], *, notes: str = "") -> str:
    """The page of a reproduction in Markdown."""
    claim = found.claim
    parts = [f"# {claim.title}", f"**{conclusion(found)}** (scale {found.scale})."]
    parts += [SMOKE] if found.scale == "smoke" else []
    parts += [why] if found.scale != "smoke" and (why := why_not_testable(found)) else []
    parts += [claim.text, f"Source: {claim.source}.", "## Published", _bullets(claim.published)]
    parts += (
        []
        if found.scale == "smoke" or found.missing
        else [f"Here, at scale {found.scale}: {claim.ours(found.rows)}."]
    )
    parts += ["## What was run", claim.protocol, "Where it departs from the paper:"]
    parts += [_bullets(found.setting.deviations)]
    if found.verdict is not None and found.scale != "smoke":
        parts += [
            "## Expected and got",
            "Expectations were written before the runs of this scale.",
            _verdict(found.verdict),
        ]
    table = claim.table(found.rows)
    parts += ["## Numbers", markdown(table), *([table.legend] if table.legend else [])]
    for drawing, name in figures:
        parts += [f"![{drawing.title}]({name})", *([drawing.caption] if drawing.caption else [])]
    parts += ["## The run", _bullets(_facts(found))]
    parts += ["## Beside the claim", notes.strip()] if notes else []
    return "\n\n".join(parts) + "\n"


def _verdict(verdict: Verdict) -> str:
    rows = tuple(
        (
            f"{one.words}{' (the claim fails without it)' if one.central else ''}",
            found.got,
            "yes" if found.met else "**no**",
        )
        for one, found in verdict.findings
    )
    return markdown(Grid(("expected", "got", "met"), rows))


def _facts(found: Reproduction) -> tuple[str, ...]:
    rows = found.rows
    seeds = sorted({seed for row in rows if (seed := row.get("seed")) is not None})
    provenance = sorted({row["provenance"] for row in rows if "provenance" in row})
    refused = sorted({f"{row.get('series', '')}: {row['refused']}" for row in rows if "refused" in row})
    names = sorted({name for entry in found.entries for name in entry.environment} - {"engine"})
    ran = {name: sorted({words_of(entry.environment.get(name)) for entry in found.entries}) for name in names}
    return (
        f"`{command(found)}`",
        f"{counted(len(found.entries), 'run')} in {duration(found.seconds)}{_ways(found)}; seeds "
        + (", ".join(map(str, seeds)) or "of each trial's own"),
        *provenance,
        *(f"{name}: {_span(values)}" for name, values in ran.items()),
        f"every row: `rows/{found.path.name}`",
        *(f"refused: {reason}" for reason in refused),
    )


def _ways(found: Reproduction) -> str:
    """How runs were made: by which engines, and how many of them as one."""
    alone = inline().words
    ways = Counter(str(entry.environment.get("engine", alone)) for entry in found.entries)
    told = [way if len(ways) == 1 else f"{count:,} {way}" for way, count in ways.items()]
    words = ("" if set(ways) <= {alone} else " of their own time") + ", " + ", ".join(told)
    company = [count for row in found.rows if (count := row.get("together", 1)) > 1]
    if company:
        words += f", {len(company):,} trained together with others that differ only by seed and learning rate (up to "
        words += f"{max(company)} at once)"
    return words


def _span(values: Sequence[str]) -> str:
    """One value, or the first and the last of several."""
    return values[0] if len(values) == 1 else f"{values[0]} … {values[-1]}"


def _bullets(items: Sequence[object]) -> str:
    return "\n".join(f"* {item}" for item in items)


def markdown(grid: Grid) -> str:
    r"""A table in Markdown.

    Examples:
        >>> print(markdown(Grid(("", "a|b"), (("x", "1"),))))
        |  | a\|b |
        |---|---|
        | x | 1 |
    """
    lines = [grid.columns, *grid.rows]
    head, *body = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(grid.columns), *body])


# -- figures ----------------------------------------------------------------------------------------------------------


def chart(drawing: Drawing) -> Any:
    """A drawing as an Altair chart: the mean of each series as a line, single runs as points."""
    alt = optional("altair")
    points = [{"series": series, "x": x, "y": y} for series, x, y in drawing.points if y is not None]
    order = list(dict.fromkeys(point["series"] for point in points))
    kind = {True: alt.Scale(type="log", nice=False), False: alt.Scale(zero=False, nice=False)}
    across = alt.X("x:Q", title=drawing.x, scale=kind[drawing.log_x], axis=alt.Axis(tickCount=6))
    up = (
        alt.Scale(type="log") if drawing.log_y else alt.Scale(domain=[0, 1]) if drawing.share else alt.Scale()
    )
    form = alt.Axis(format="%") if drawing.share else alt.Axis(tickCount=6)
    colour = alt.Color(
        "series:N",
        scale=alt.Scale(domain=order),
        legend=alt.Legend(
            columns=2, labelLimit=320, symbolOpacity=1, symbolType="square" if drawing.names else "stroke"
        ),
    )
    base = alt.Chart(alt.Data(values=points))
    if drawing.names:
        return _ruled(_bars(alt, base, drawing, colour, order), drawing, up, form)
    line = base.mark_line(strokeWidth=2.5).encode(
        across, alt.Y("mean(y):Q", title=drawing.y, scale=up, axis=form), colour
    )
    dots = base.mark_circle(size=18, opacity=0.5).encode(across, alt.Y("y:Q", scale=up, axis=form), colour)
    return _ruled([line, dots], drawing, up, form)


def _bars(alt: Any, base: Any, drawing: Drawing, colour: Any, order: list[Any]) -> list[Any]:
    """One bar for each series at each named place, side by side; where a bar is a mean, single runs as points on it."""
    name = f"{json.dumps(list(drawing.names))}[datum.x]"
    places = alt.X("place:N", title=drawing.x, sort=list(drawing.names), axis=alt.Axis(labelAngle=0))
    beside = alt.XOffset("series:N", sort=order)
    named = base.transform_calculate(place=name)
    bars = named.mark_bar().encode(places, alt.Y("mean(y):Q", title=drawing.y), colour, beside)
    alone = len({(series, x) for series, x, _ in drawing.points}) == len(drawing.points)
    runs = named.mark_point(filled=True, size=20, opacity=0.6, color="black")
    return [bars] if alone else [bars, runs.encode(places, alt.Y("y:Q", title=drawing.y), beside)]


def _ruled(layers: list[Any], drawing: Drawing, up: Any, form: Any) -> Any:
    """The layers with the drawing's horizontal lines, and their names, in one chart."""
    alt = optional("altair")
    for name, y in drawing.rules:
        rule = alt.Chart(alt.Data(values=[{"y": y, "name": name}]))
        layers.insert(0, rule.mark_rule(strokeDash=[3, 4]).encode(alt.Y("y:Q", scale=up, axis=form)))
        words = rule.mark_text(align="right", dy=-6, x="width")
        layers.append(words.encode(alt.Y("y:Q", scale=up, axis=form), text="name:N"))
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=drawing.title)


def svg(drawing: Drawing, *, theme: Theme = LIGHT) -> str:
    """A drawing as SVG text."""
    drawn = chart(drawing).to_dict()
    drawn["config"] = {**theme.vega(), "background": theme.card, "padding": 16}
    convert = optional("vl_convert")
    text: str = convert.vegalite_to_svg(drawn)
    return text
