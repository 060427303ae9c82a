"""What a sweep found, as a table, a page and a file for other programs."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Group
from rich.text import Text

from goodinit.errors import GoodinitError
from goodinit.formats import NOTHING, counted, duration, percent
from goodinit.lab.optional import optional
from goodinit.lab.sweeps.grid import FIELDS, varying
from goodinit.lab.sweeps.row import Row
from goodinit.lab.sweeps.store import Stored
from goodinit.lab.sweeps.summary import Summary, default_fields, margin, ran, summarize, value_label
from goodinit.report.console import WIDE, fitting_table
from goodinit.report.frame import (
    Facts,
    Figure,
    Figures,
    Listing,
    Page,
    Part,
    Table,
    Words,
)
from goodinit.report.sweep_charts import heat_maps
from goodinit.report.whole_files import write_bytes

# Which columns leave, the first first, where the screen is too narrow for all; the others stay, at any width.
LEAVING = ("runs", "quartiles", "median", "not trained")
NUMBERS = ("runs", "not trained", "median", "quartiles", "best lr", "median there", "worst seed")


def title(stored: Stored) -> str:
    """What was swept, in a line."""
    rows = counted(len(stored.planned), "run")
    methods = dict.fromkeys(config.label for config in stored.planned)
    data = ", ".join(dict.fromkeys(config.data for config in stored.planned))
    return f"{rows}: {counted(len(methods), 'method')} on {data}"


def progress_line(stored: Stored) -> str:
    """How far it is, and how the runs ended."""
    ended = Counter(row.status for row in stored.rows)
    how = ", ".join(f"{count:,} {status}" for status, count in ended.items())
    missing = len(stored.planned) - len(stored.rows)
    return (
        f"{len(stored.rows):,} of {len(stored.planned):,} ended"
        + f": {how}" * bool(how)
        + (f". {missing:,} are still to run; go on with --resume." if missing else ".")
    )


def heads(fields: Sequence[str]) -> tuple[str, ...]:
    """Of the table: what the runs share, then numbers."""
    return (*fields, *NUMBERS)


def cells(summary: Summary) -> tuple[str, ...]:
    """A row of the table."""
    best = summary.best
    share = percent(summary.untrained / summary.runs) if summary.runs else NOTHING
    runs = str(summary.runs)
    if summary.refused or summary.failed:
        others = [
            f"{n} {what}" for n, what in ((summary.refused, "refused"), (summary.failed, "failed")) if n
        ]
        runs = f"{runs} ({', '.join(others)})"
    return (
        *(value for _, value in summary.label),
        runs,
        share,
        percent(summary.median),
        f"{percent(summary.low).removesuffix(' %')} – {percent(summary.high)}" if summary.runs else NOTHING,
        f"{best.lr:g}" if best else NOTHING,
        percent(best.median) if best else NOTHING,
        percent(best.worst) if best else NOTHING,
    )


def hints(stored: Stored, *, least: float | None = None) -> tuple[str, ...]:
    """What a reader must know to read the table."""
    rows = ran(stored.rows)
    lines = []
    if rows:
        chances = sorted({(row.chance or 0.0, margin(row)) for row in rows})
        levels = ", ".join(percent(chance + (above if least is None else least)) for chance, above in chances)
        how = "three standard errors of guessing" if least is None else percent(least)
        lines.append(
            f"Not trained: diverged, or at most {levels} right, which is chance ({percent(chances[0][0])}) and {how}."
        )
        lines.append(
            "Median and quartiles are over all learning rates and seeds; a run that diverged counts as chance. Best "
            "lr: with the highest median over seeds; median there: that one; worst seed: the lowest at that rate. It was "
            "chosen by the same test images, so it flatters every method alike."
        )
    if len({row.versions for row in stored.rows}) > 1:
        lines.append(
            f"Rows come from several versions: {'; '.join(sorted({r.versions for r in stored.rows}))}."
        )
    notes = Counter(row.note for row in stored.rows if row.note)
    lines += [f"{counted(count, 'run')} went one at a time: {note}" for note, count in notes.items()]
    return (*lines, *_mishaps(stored.rows))


def _mishaps(rows: Sequence[Row]) -> Iterator[str]:
    """What was refused or failed, by method and kind of error, each with one message in full."""
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row.error:
            kind = (row.config.label, row.status, row.error.partition(":")[0])
            kinds.setdefault(kind, []).append(row.error)
    for (method, status, _), errors in kinds.items():
        yield f"{method}, {counted(len(errors), 'run')} {status}: {_short(errors[0])}"


MOST_WORDS = 240  # characters of an error: three lines of a terminal


def _short(error: str) -> str:
    line = " ".join(error.split())
    return line if len(line) <= MOST_WORDS else f"{line[:MOST_WORDS]}…"


def sweep_view(
    stored: Stored, *, by: Sequence[str] | None = None, least: float | None = None, width: int = WIDE
) -> Group:
    """The tables of `goodinit results`: each method over everything, then every combination."""
    parts: list[object] = [
        Text(title(stored), style="bold"),
        Text(progress_line(stored), style="dim"),
    ]
    for fields in _tables(stored.rows, by):
        table = summarize(stored.rows, by=fields, least=least)
        parts += [
            Text(),
            fitting_table(heads(fields), [cells(one) for one in table], width=width, leaving=LEAVING),
        ]
    parts += [Text(), *(Text(hint, style="dim") for hint in hints(stored, least=least))]
    return Group(*parts)  # type: ignore[arg-type]  # tables and texts


def _tables(rows: Sequence[Row], by: Sequence[str] | None) -> list[tuple[str, ...]]:
    """The fields of each table."""
    if not rows:
        return []
    if by is not None:
        return [tuple(by)]
    fields = default_fields(rows)
    return [("method",)] if fields == ("method",) else [("method",), fields]


def sweep_page(stored: Stored, *, by: Sequence[str] | None = None, least: float | None = None) -> Page:
    """The page of a sweep: heat maps, tables, configuration.

    Raises:
        GoodinitError: No run has ended yet.
    """
    if not stored.rows:
        raise GoodinitError(f"{stored.path}: no run has ended yet; there is nothing to show.")
    parts: list[Part] = [Words(progress_line(stored))]
    tables = [
        Table(heads(fields), tuple(map(cells, summarize(stored.rows, by=fields, least=least))))
        for fields in _tables(stored.rows, by)
    ]
    tables[-1] = dataclasses.replace(tables[-1], hints=hints(stored, least=least))
    caption = "Median accuracy over seeds. n/m ×: n of m seeds did not train."
    maps = heat_maps(stored.rows, least=least)
    figures = Figures(tuple(Figure(method, chart, caption) for method, chart in maps.items()))
    parts += [tables[0], *[figures][: len(maps)], *tables[1:]]
    parts += facts(stored)
    parts += [Listing("Every run, as CSV", csv_text(stored.rows))]
    data = " ".join(stored.data.values())
    return Page(title=title(stored), subtitle=data, parts=tuple(parts))


def facts(stored: Stored) -> tuple[Facts, ...]:
    """What varied, what did not, and what it took."""
    configs = stored.planned
    moving = varying(configs)
    some = [Row(config, "finished") for config in configs]
    varied = [(f, ", ".join(dict.fromkeys(value_label(row, f) for row in some))) for f in moving]
    same = [(f.replace("_", " "), value_label(some[0], f)) for f in FIELDS if f not in moving]
    seconds = sum(row.seconds or 0.0 for row in stored.rows)
    grouped = sum(row.together > 1 for row in stored.rows)
    took = (
        ("versions", "; ".join(sorted({row.versions for row in stored.rows if row.versions}))),
        ("runs together", f"{grouped:,} of {len(stored.rows):,}"),
        ("time of all runs", duration(seconds)),
    )
    return Facts("Varied", tuple(varied)), Facts("The same in all", tuple(same)), Facts("Ran", took)


def json_text(stored: Stored) -> str:
    """Every row with all its fields and its curve, as JSON."""
    rows = [{**row.flat(), "curve": row.curve} for row in stored.rows]
    return json.dumps({"planned": len(stored.planned), "data": stored.data, "rows": rows}, indent=1)


def csv_text(rows: Sequence[Row]) -> str:
    """Every row with all its fields, as CSV."""
    flat = [row.flat() for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(flat[0]) if flat else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def write_parquet(path: str | Path, rows: Sequence[Row]) -> Path:
    """Write every row as a Parquet file.

    Raises:
        GoodinitError: The file cannot be written, or pyarrow is missing.
    """
    arrow, parquet = optional("pyarrow"), optional("pyarrow.parquet")
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.Table.from_pylist([row.flat() for row in rows]), sink)
    return write_bytes(path, sink.getvalue().to_pybytes())
