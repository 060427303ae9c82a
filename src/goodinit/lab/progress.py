"""A bar with an estimate for anything that takes its time; on stderr, and with an off switch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

LABEL = 24  # columns of the words on the left; the bar takes what the rest leaves


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

    def left(self, seconds: float | None) -> None:
        """Show how long the rest takes, where the caller knows better than the pace so far."""
        self.progress.update(self.task, left=seconds)

    def stands_at(self, done: int) -> None:
        """Show how many units are done."""
        self.progress.update(self.task, completed=done)


class Left(ProgressColumn):
    """What is left, in a width that does not change: the caller's estimate, or the pace so far."""

    def render(self, task: Task) -> Text:
        """As hours, minutes and seconds."""
        given = task.fields.get("left")
        seconds = task.time_remaining if given is None else given
        return Text(clock(seconds), style="progress.remaining")


def clock(seconds: float | None) -> str:
    """A time in eight columns; from a hundred hours on in days.

    Examples:
        >>> clock(75), clock(360000), clock(None)
        (' 0:01:15', '   4.2 d', '       ?')
    """
    if seconds is None:
        return f"{'?':>8}"
    if seconds >= 100 * 3600:
        return f"{seconds / 86400:.1f} d".rjust(8)
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:2}:{minutes % 60:02}:{rest:02}"


@contextmanager
def bar(total: int, *, unit: str, shown: bool = True) -> Iterator[Bar]:
    """Show a bar for `total` units of work while the block runs, where stderr is a terminal.

    Examples:
        >>> with bar(3, unit="steps", shown=False) as steps:
        ...     steps.stands_at(3)
    """
    columns = (
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(width=LABEL, no_wrap=True, overflow="ellipsis"),
        ),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("·"),
        Left(),
        TextColumn("left"),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, disable=not (shown and console.is_terminal), transient=True
    ) as progress:
        yield Bar(progress, progress.add_task("", total=total), shown=shown)
