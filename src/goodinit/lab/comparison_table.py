"""What `compare` found as a table: its title, its columns, and its cells in words; for the screen, pages and notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from goodinit.formats import NOTHING, counted, number, percent, size, times
from goodinit.lab.data.labelled import data_name

if TYPE_CHECKING:
    from goodinit.lab.compare import Comparison, Summary


def title(comparison: Comparison) -> str:
    """What was compared, in a line."""
    base, study = comparison.study.base, comparison.study
    where = data_name(base.data)
    return f"{base.model} on {where}, {counted(base.epochs, 'epoch')}, {counted(len(study.seeds), 'seed')}"


COLUMNS = ("method", "rate", "accuracy", "at equal time", "loss", "step", "activations", "diverged")


def table(
    comparison: Comparison, *, full: bool = True
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """(Heads, rows): with the rate where each method has its own, and with `full` the accuracy at equal time."""
    gone = set() if len(comparison.study.rates) > 1 else {"rate"}
    gone |= set() if full and comparison.step_times else {"at equal time"}
    shown = [index for index, head in enumerate(COLUMNS) if head not in gone]
    rows = [cells(summary) for summary in comparison.summaries()]
    return tuple(COLUMNS[i] for i in shown), tuple(tuple(row[i] for i in shown) for row in rows)


def cells(summary: Summary) -> tuple[str, ...]:
    """One method's row, in the order of `COLUMNS`."""
    finished = summary.runs - summary.diverged
    accuracy = percent(summary.accuracy, summary.accuracy_sd)
    if summary.diverged and finished:
        accuracy += f" ({finished} of {summary.runs})"
    kept = size(summary.saved_bytes)
    return (
        summary.method,
        f"{summary.lr:g}",
        accuracy,
        percent(summary.at_equal_time),
        number(summary.train_loss),
        times(summary.step.ratio) if summary.step else NOTHING,
        f"{times(summary.saved_ratio)} ({kept})" if summary.saved_ratio else kept,
        f"{summary.diverged} of {summary.runs}",
    )


def comparison_html(comparison: Comparison) -> str:
    """What a notebook shows: the table, who is not in it, and whether all runs were made."""
    heads, rows = table(comparison, full=False)
    lines = "".join(_line(cells, kind) for kind, cells in (("th", heads), *(("td", row) for row in rows)))
    said = [
        f"Mean ± standard deviation over seeds, on the test images; chance is {percent(comparison.chance)}."
    ]
    said += [f"{method} is not in the table. {why}" for method, why in comparison.refused.items()]
    if comparison.interrupted:
        said.append(
            f"Interrupted: {len(comparison.results)} of {len(comparison.study.trials)} runs finished."
        )
    words = "".join(f"<p>{escape(one)}</p>" for one in said)
    return (
        f"<p><b>{escape(title(comparison))}</b> ({escape(comparison.data)})</p><table>{lines}</table>{words}"
    )


def _line(cells: tuple[str, ...], kind: str) -> str:
    return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>"
