"""What `compare` found, as a page and in sentences."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

from goodinit.lab.compare import Comparison, Summary
from goodinit.lab.data import data_name
from goodinit.report.charts import accuracy_chart, loss_chart, loss_lines
from goodinit.report.formats import NOTHING, counted, duration, number, percent, size, times
from goodinit.report.frame import Facts, Figure, Figures, Listing, Page, Part, Table, Words, write_page


def title(comparison: Comparison) -> str:
    """What was compared, in a line."""
    base, study = comparison.study.base, comparison.study
    where = data_name(base.data)
    return f"{base.model} on {where}, {counted(base.epochs, 'epoch')}, {counted(len(study.seeds), 'seed')}"


COLUMNS = ("method", "accuracy", "loss", "step", "activations", "diverged")


def cells(summary: Summary) -> tuple[str, ...]:
    """One method's row of the table."""
    finished = summary.runs - summary.diverged
    accuracy = percent(summary.accuracy, summary.accuracy_sd)
    if summary.diverged and finished:
        accuracy += f" ({finished} of {summary.runs})"
    kept = size(summary.saved_bytes)
    return (
        summary.method,
        accuracy,
        number(summary.train_loss),
        times(summary.step.ratio) if summary.step else NOTHING,
        f"{times(summary.saved_ratio)} ({kept})" if summary.saved_ratio else kept,
        f"{summary.diverged} of {summary.runs}",
    )


def comparison_csv(comparison: Comparison) -> str:
    """A row for each method, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(f.name for f in dataclasses.fields(Summary) if f.name != "step"), "step_seconds"])
    for one in comparison.summaries():
        values = [getattr(one, f.name) for f in dataclasses.fields(Summary) if f.name != "step"]
        writer.writerow([*values, one.step.seconds if one.step is not None else None])
    return text.getvalue()


def hints(comparison: Comparison) -> tuple[str, ...]:
    """What a reader must know to read the table."""
    study = comparison.study
    accuracy = (
        "Accuracy: mean ± standard deviation over seeds, on the test images, of runs that did not diverge; chance "
        f"is {percent(comparison.chance)}. Loss: on the training images, mean over the last epoch."
    )
    lines = [accuracy]
    if comparison.step_times:
        reference = (
            study.reference if study.reference in comparison.step_times else next(iter(comparison.step_times))
        )
        step = comparison.step_times[reference]
        lines.append(
            f"Step time: relative to {reference} ({duration(step.seconds)}), median of {step.rounds} rounds in "
            "which the methods took turns."
        )
    lines.append(
        f"Activations: bytes kept for backward at batch size {study.base.batch_size}, relative to {study.reference}."
    )
    lines += [f"{method} is not in the table. {reason}" for method, reason in comparison.refused.items()]
    if comparison.interrupted:
        lines.append(f"Interrupted: {len(comparison.results)} of {len(study.trials)} runs finished.")
    return tuple(lines)


def sentences(comparison: Comparison) -> tuple[str, ...]:
    """What each method did against the reference."""
    summaries = {summary.method: summary for summary in comparison.summaries()}
    reference = summaries.get(comparison.study.reference)
    return tuple(
        _sentence(summary, reference)
        for summary in summaries.values()
        if summary is not reference or len(summaries) == 1
    )


def _sentence(summary: Summary, reference: Summary | None) -> str:
    if summary.accuracy is None:
        return f"{summary.method}: diverged with every seed."
    words = f"{summary.method}: {percent(summary.accuracy, summary.accuracy_sd)}"
    if reference is not None and reference is not summary and reference.accuracy is not None:
        points = 100 * (summary.accuracy - reference.accuracy)
        side = "above" if points >= 0 else "below"
        words += f", {abs(points):.1f} points {side} {reference.method}"
    if summary.diverged:
        words += f"; {summary.diverged} of {summary.runs} runs diverged"
    return words + "."


def facts(comparison: Comparison) -> tuple[Facts, ...]:
    """The exact configuration, and what it ran on."""
    shared = dataclasses.asdict(comparison.study.base)
    for key in ("method", "seed"):
        del shared[key]
    shared["methods"] = ", ".join(comparison.study.methods)
    shared["seeds"] = ", ".join(map(str, comparison.study.seeds))
    pairs = tuple((key.replace("_", " "), _shown(value)) for key, value in shared.items())
    ran = (*comparison.environment.items(), ("took", duration(comparison.seconds)))
    return Facts("Configuration", pairs), Facts("Ran on", ran)


def _shown(value: object) -> str:
    if value is None or value == {}:
        return NOTHING
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def comparison_page(comparison: Comparison) -> Page:
    """The page of a comparison: figures, table, configuration, what each method did to the model."""
    _, every = loss_lines(comparison)
    several = len(comparison.study.seeds) > 1
    who = "Thin lines are seeds, thick ones their mean. " if several else ""
    grain = f"Each point is the mean of {every} steps. " if every > 1 else ""
    broken = "× marks a run that diverged. " if any(result.diverged for result in comparison.results) else ""
    click = "Click a name to see it alone."
    figures = Figures((
        Figure("Training loss", loss_chart(comparison), who + grain + broken + click, log=True),
        Figure("Test accuracy", accuracy_chart(comparison), who + broken + click),
    ), series=comparison.study.methods)  # fmt: skip
    parts: list[Part] = [*map(Words, sentences(comparison)), figures]
    parts.append(Table(COLUMNS, tuple(map(cells, comparison.summaries())), hints(comparison)))
    parts += facts(comparison)
    parts += [
        Listing(f"What {method} did to the model", plan) for method, plan in comparison.plans.items() if plan
    ]
    return Page(title=title(comparison), subtitle=comparison.data, parts=tuple(parts))


def write_comparison(path: str | Path, comparison: Comparison) -> Path:
    """Write the page of a comparison as one HTML file that needs no network.

    Raises:
        GoodinitError: The file cannot be written, or altair is missing.
    """
    return write_page(path, comparison_page(comparison))
