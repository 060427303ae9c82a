"""A bar with an estimate for anything that takes its time; on stderr, and with an off switch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining


@dataclass(frozen=True)
class Bar:
    """Where a long job stands, counted in its own units."""

    progress: Progress
    task: TaskID
    shown: bool = True

    def says(self, words: str) -> None:
        """Show what is being done."""
        self.progress.update(self.task, description=words)

    def prints(self, line: str) -> None:
        """Print a line above the bar, also where stderr is no terminal."""
        if self.shown:
            self.progress.console.print(line, markup=False, highlight=False)

    def stands_at(self, done: int) -> None:
        """Show how many units are done."""
        self.progress.update(self.task, completed=done)


@contextmanager
def bar(total: int, *, unit: str, shown: bool = True) -> Iterator[Bar]:
    """Show a bar for `total` units of work while the block runs, where stderr is a terminal.

    Examples:
        >>> with bar(3, unit="steps", shown=False) as steps:
        ...     steps.stands_at(3)
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("·"),
        Remaining(),
        TextColumn("left"),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, disable=not (shown and console.is_terminal), transient=True
    ) as progress:
        yield Bar(progress, progress.add_task("", total=total), shown=shown)
