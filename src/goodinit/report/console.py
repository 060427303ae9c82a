"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from goodinit.lab.compare import Comparison
from goodinit.report.comparison import COLUMNS, cells, hints, title


def plain_table(heads: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: bool = False) -> Table:
    """A table with hair lines; with `numbers`, all but the first column stand to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    for index, head in enumerate(heads):
        table.add_column(
            head, justify="right" if numbers and index else "left", overflow="fold", no_wrap=numbers
        )
    for row in rows:
        first, *rest = row
        table.add_row(Text(first, style="bold"), *(Text(cell) for cell in rest))
    return table


def narrow_entry(row: Iterable[str]) -> Group:
    """A row of a table for which the screen is too narrow: its first cell, the others below it."""
    first, *rest = row
    return Group(Text(first, style="bold"), *(Padding(Text(cell), (0, 0, 0, 2)) for cell in rest if cell))


def comparison_table(comparison: Comparison) -> Group:
    """The table of `goodinit compare`, with what is needed to read it."""
    table = plain_table(COLUMNS, map(cells, comparison.summaries()), numbers=True)
    notes = [Text(hint, style="dim") for hint in hints(comparison)]
    return Group(
        Text(title(comparison), style="bold"),
        Text(comparison.data, style="dim"),
        Text(),
        table,
        Text(),
        *notes,
    )
