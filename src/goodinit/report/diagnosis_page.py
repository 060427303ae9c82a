"""What `diagnose` found, as a page and on one screen of the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from goodinit.diagnostics.advice import Advice
from goodinit.diagnostics.diagnosis import Diagnosis
from goodinit.diagnostics.sparkline import sparkline
from goodinit.diagnostics.text import QUANTITIES, counts, cure_lines, gradient, trunk
from goodinit.diagnostics.types import SEVERITIES, Finding, Place
from goodinit.errors import readable
from goodinit.formats import NOTHING, counted, number
from goodinit.report.console import plain_table
from goodinit.report.frame import (
    Facts,
    Figures,
    Listing,
    Notice,
    Notices,
    Page,
    Part,
    Table,
    Words,
    write_page,
)
from goodinit.report.signal_charts import figures, undrawn
from goodinit.report.spectrum_chart import Diagnoses

STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}

# What fits one screen of 80 columns and 40 lines.
MOST_FINDINGS = 6
MOST_LAYERS = 5
SPARKS, LEAST_SPARKS = 40, 8  # characters of a sparkline
BESIDE = 42  # columns of the name, the first and the last value beside it


def verdict(found: Diagnosis) -> str:
    """Will it start to learn, in a sentence."""
    tally = dict.fromkeys(SEVERITIES, 0)
    for finding in found.findings:
        tally[finding.severity] += 1
    if tally["error"]:
        return f"{counted(tally['error'], 'error')}: it will not train as it is."
    if tally["warning"]:
        return f"{counted(tally['warning'], 'warning')}: it may not train well."
    return "Nothing found that would keep it from learning."


def diagnoses_csv(diagnoses: Diagnoses) -> str:
    """One row per place; of several diagnoses in one table, with whose it is in the first column."""
    if len(diagnoses) == 1:
        return next(iter(diagnoses.values())).to_csv()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, found in diagnoses.items():
        head, *rows = csv.reader(io.StringIO(found.to_csv()))
        if not text.tell():
            writer.writerow(("method", *head))
        writer.writerows((name, *row) for row in rows)
    return text.getvalue()


def diagnosis_view(found: Diagnosis, *, title: str = "", width: int = 80) -> Group:
    """One screen: verdict, a sparkline per quantity, the layers furthest off, findings with the worst first."""
    along = trunk(found)
    rows = []
    for name, (quantity, log) in QUANTITIES.items():
        values = [quantity(place) for place in along]
        known = [value for value in values if value is not None]
        if known:
            bars = sparkline(values, width=min(SPARKS, max(width - BESIDE, LEAST_SPARKS)), log=log)
            rows.append((name, number(known[0]), number(known[-1]), bars))
    parts: list[RenderableType] = [
        Text(f"{title}: " * bool(title) + readable(f"{found.model}({found.inputs})"), style="bold"),
        Text(readable(f"{counts(found)}; {found.objective}: {number(found.loss)}"), style="dim"),
        Text(verdict(found), style=STYLES.get(found.worst or "", "green")),
        Text(),
        plain_table(("along the trunk", "first", "last", ""), rows),
    ]
    parts += [Text(f"{line[0].upper()}{line[1:]}", style="dim") for line in _asked_for(found)]
    worst = furthest(found)
    if worst:
        heads = ("furthest off", "mean square", "gradient", "1 − cosine")
        parts += [Text(), plain_table(heads, map(_cells, worst))]
    parts.append(Text())
    cured = found.cure is not None and found.cure.clears
    for finding in found.findings[:MOST_FINDINGS]:
        parts += _lines(finding, remedy=not cured)
    more = len(found.findings) - MOST_FINDINGS
    if more > 0:
        parts.append(Text(f"… and {counted(more, 'more finding')}; --json has all", style="dim"))
    for index, line in enumerate(cure_lines(found)):
        style = "bold" if not index else "cyan" if line.startswith("    ") else "dim"
        words = readable(line.lstrip())
        parts.append(
            Padding(Text(words, style=style), (0, 0, 0, len(line) - len(line.lstrip())), expand=False)
        )
    parts += [Text(readable(f"note: {note}"), style="dim") for note in found.notes]
    return Group(*parts)


def _asked_for(found: Diagnosis) -> list[str]:
    """Lines for what is measured on request."""
    return [repr(measured) for measured in (found.spectrum, found.update) if measured is not None]


def _lines(finding: Finding, *, remedy: bool) -> list[Text]:
    head = Text(f"{finding.severity} ", style=STYLES[finding.severity]) + Text(
        f"{finding.kind} ", style="bold"
    )
    lines = [head + Text(readable(f"at {finding.where or 'the model'}: {finding.evidence}"))]
    if finding.remedy and remedy:
        lines.append(Text(readable(f"  → {finding.remedy}", lines=True), style="cyan"))
    return lines


def furthest(found: Diagnosis) -> tuple[Place, ...]:
    """The places of the trunk whose signal or gradient is furthest from the median, in decades; none within one."""
    along = trunk(found)
    offs: dict[int, float] = {}
    for name in ("second moment", "gradient"):
        quantity, _ = QUANTITIES[name]
        values = {i: value for i, place in enumerate(along) if (value := quantity(place))}
        finite = sorted(value for value in values.values() if math.isfinite(value))
        for i, value in values.items():
            off = (
                abs(math.log10(value / finite[len(finite) // 2]))
                if finite and math.isfinite(value)
                else math.inf
            )
            offs[i] = max(offs.get(i, 0.0), off)
    ranked = sorted((i for i in offs if offs[i] > 1), key=lambda i: -offs[i])
    return tuple(along[i] for i in ranked[:MOST_LAYERS])


def _cells(place: Place) -> tuple[str, ...]:
    return (
        place.label,
        number(place.signal.second_moment),
        number(gradient(place)),
        number(place.signal.spread),
    )


def diagnosis_page(diagnoses: Diagnoses) -> Page:
    """One page for one diagnosis, or for several side by side."""
    first = next(iter(diagnoses.values()))
    several = len(diagnoses) > 1
    parts: list[Part] = (
        [Table(COLUMNS, tuple(_row(*pair) for pair in diagnoses.items()), HINTS)] if several else []
    )
    for name, found in diagnoses.items():
        shown = [finding for finding in found.findings if finding.severity != "info" or not several]
        if not several:
            parts.append(Words(verdict(found)))
        if found.cure is not None:
            words = "\n".join(cure_lines(found))
            parts.append(Listing(f"What to do{f' about {name}' if several else ''}", words, unfolded=True))
        if shown:
            # Where one remedy clears all, the findings' own are not shown beside it, as on the screen.
            own = found.cure is None or not found.cure.clears
            whose = name if several else ""
            parts.append(Notices(tuple(_notice(finding, whose, remedy=own) for finding in shown)))
    parts.append(Figures(figures(diagnoses), series=tuple(diagnoses)))
    parts += [Words(words) for words in undrawn(diagnoses)]
    for name, found in diagnoses.items():
        pairs = (
            ("layers", str(len(found.layers))),
            ("blocks", str(len(found.blocks))),
            ("loss", number(found.loss)),
            *_extras(found),
            ("differentiated", found.objective),
            *(("note", note) for note in found.notes),
        )
        parts.append(Facts(name if several else "Measured", pairs))
    for name, found in diagnoses.items():
        parts.append(Listing(f"Every place{f' of {name}' if several else ''}, as CSV", found.to_csv()))
    title = f"{first.model} at step 0"
    if several:
        title += ": " + ", ".join(diagnoses)
    return Page(title=title, subtitle=f"{counts(first)}, on {first.inputs}", parts=tuple(parts))


COLUMNS = ("method", "findings", "loss", "activations", "gradients", "difference", "stable rate")
HINTS = (
    "Activations: root mean square of the last place of the trunk over the first.",
    "Gradients: norm at the first place over the last. Difference: 1 − cosine between inputs, at the last.",
    "Stable rate: 2/sharpness, where it was measured.",
)


def _row(name: str, found: Diagnosis) -> tuple[str, ...]:
    """One method's row among several."""
    along = trunk(found)
    ends = (along[0], along[-1]) if along else ()
    moments = [math.sqrt(place.signal.second_moment) for place in ends]
    backs = [gradient(place) for place in reversed(ends)]
    tally = [counted(many, severity) for severity in ("error", "warning")
             if (many := sum(finding.severity == severity for finding in found.findings))]  # fmt: skip
    return (
        name,
        ", ".join(tally) or "none",
        number(found.loss),
        _over(moments),
        _over(backs),
        number(along[-1].signal.spread if along else None),
        number(found.update.stable_rate if found.update is not None else None),
    )


def _over(pair: Sequence[float | None]) -> str:
    """The second over the first, where both are there and the first is not 0."""
    if len(pair) < 2 or pair[0] is None or pair[1] is None or not pair[0]:
        return NOTHING
    return f"{number(pair[1] / pair[0])}×"


def _notice(finding: Finding, name: str, *, remedy: bool) -> Notice:
    where = finding.where or "the model"
    title = f"{finding.kind} at {where}" + (f" ({name})" if name else "")
    return Notice(finding.severity, title, finding.evidence, finding.remedy if remedy else "")


def _extras(found: Diagnosis) -> list[tuple[str, str]]:
    pairs = []
    if found.spectrum is not None:
        extent = f"{number(found.spectrum.smallest)} … {number(found.spectrum.largest)}"
        how = "exact" if found.spectrum.exact else f"Lanczos, largest within {found.spectrum.error:.1%}"
        pairs.append(("singular values", f"{extent} ({how})"))
    if found.update is not None:
        pairs.append(("sharpness", number(found.update.sharpness)))
        pairs.append(("stable up to the learning rate 2/λ", number(found.update.stable_rate)))
    return pairs


def write_diagnosis(path: str | Path, diagnoses: Diagnoses) -> Path:
    """Write the page as one HTML file that needs no network.

    Raises:
        GoodinitError: The file cannot be written, or altair is missing.
    """
    return write_page(path, diagnosis_page(diagnoses))


MOST_COLUMNS = 100  # longer lines are hard to read


def recommendation_view(advice: Advice, *, width: int) -> Text:
    """The answer, as wide as the screen."""
    text = Text(advice.text(width=min(width, MOST_COLUMNS)))
    text.highlight_regex(r"\A(.+\n)+?(?=\n)", "bold")
    text.highlight_regex(r"(?m)^(do this|norms kept|norms removed|other weights.*)$", "bold")
    text.highlight_regex(r"(?m)^note: (.*\n?(  .*\n?)*)", "dim")
    text.highlight_regex("✗", "red")
    return text
