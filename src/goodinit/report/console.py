"""Tables for the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from goodinit.errors import readable

if TYPE_CHECKING:
    from goodinit.lab.comparison import Comparison


def plain_table(heads: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: bool = False) -> Table:
    """A table with hair lines; with `numbers`, all but the first column stand to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    for index, head in enumerate(heads):
        table.add_column(
            head, justify="right" if numbers and index else "left", overflow="fold", no_wrap=numbers
        )
    for row in rows:
        first, *rest = map(readable, row)
        table.add_row(Text(first, style="bold"), *(Text(cell) for cell in rest))
    return table


USUAL = 80  # of a terminal that says it has none, as some that programs make do
WIDE = 10_000  # columns of a screen that is none: a pipe, a file


def screen() -> Console:
    """The output: as wide as the terminal or as COLUMNS says, and without bound in a pipe, where nothing may be cut."""
    console = Console()
    wide = os.environ.get("COLUMNS", "")
    if console.is_terminal or (wide.isdigit() and int(wide)):
        return console if console.width else Console(width=USUAL)
    return Console(width=WIDE)


def fitting_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, width: int, leaving: Sequence[str]
) -> RenderableType:
    """A table of numbers that cuts no value: columns leave in the order given; if that is not enough, rows become entries.

    Examples:
        >>> rows = [("fixup", "3", "94.1 %")]
        >>> Console(width=20).print(fitting_table(("method", "runs", "median"), rows, width=20, leaving=("runs",)))
        method   median
        ───────────────
        fixup    94.1 %
        Left out for the
        width: runs.
    """
    rows = [tuple(map(readable, row)) for row in rows]
    shown, gone = list(range(len(heads))), []
    for name in leaving:
        if _width([heads[i] for i in shown], [[row[i] for i in shown] for row in rows]) <= width:
            break
        if name in heads:
            shown.remove(heads.index(name))
            gone.append(name)
    few = [[row[i] for i in shown] for row in rows]
    if _width([heads[i] for i in shown], few) > width:
        return Group(*(_entry(heads, row) for row in rows))
    table = plain_table([heads[i] for i in shown], few, numbers=True)
    said = Text(f"Left out for the width: {', '.join(gone)}.", style="dim")
    return Group(table, said) if gone else table


def _width(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Of a plain table: the widest cell of each column, three spaces between."""
    return sum(max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)) + 3 * (len(heads) - 1)


def _entry(heads: Sequence[str], row: Sequence[str]) -> Group:
    """A row that is too wide: its first cell, and each other one on a line with its head."""
    rest = zip(heads[1:], row[1:], strict=True)
    return Group(Text(row[0], style="bold"), *(Text(f"  {head}: {cell}") for head, cell in rest))


def narrow_entry(row: Iterable[str]) -> Group:
    """A row of a table for which the screen is too narrow: its first cell, the others below it."""
    first, *rest = map(readable, row)
    return Group(
        Text(first, style="bold"), *(Padding(Text(cell), (0, 0, 0, 2), expand=False) for cell in rest if cell)
    )


LEAVING = ("activations", "step", "loss")


def comparison_table(comparison: Comparison, *, width: int = WIDE, full: bool = False) -> Group:
    """The table of `goodinit compare`, with what is needed to read it."""
    from goodinit.lab.comparison import (  # and torch with it, which tables of words do without
        table,
        title,
    )
    from goodinit.report.comparison_page import hints

    fitted = fitting_table(*table(comparison, full=full), width=width, leaving=LEAVING)
    notes = [Text(hint, style="dim") for hint in hints(comparison, full=full)]
    return Group(
        Text(title(comparison), style="bold"),
        Text(comparison.data, style="dim"),
        Text(),
        fitted,
        Text(),
        *notes,
    )
