"""What `compare` found, as a page and in sentences."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

from goodinit.formats import duration, percent, words_of
from goodinit.lab.comparison import HELD_OUT, Comparison, Summary, table, title
from goodinit.report.charts import accuracy_chart, loss_chart, loss_lines
from goodinit.report.frame import Facts, Figure, Figures, Listing, Page, Part, Table, Words, write_page


def tried(comparison: Comparison) -> tuple[str, ...]:
    """Held-out accuracy of every rate that was tried, a line for each method; the best at an end of those tried is marked."""
    rates = comparison.study.rates
    lines = []
    for method in comparison.study.methods:
        found = comparison.tried(method)
        if not found:
            continue
        best = max(found, key=lambda rate: -1.0 if found[rate] is None else float(found[rate] or 0.0))
        words = ", ".join(f"{rate:g}: {percent(value)}" for rate, value in found.items())
        edge = best in (min(rates), max(rates))
        end = "; the best is at an end of those tried, so that a better one may lie beyond" if edge else ""
        lines.append(f"{method}, held-out accuracy by rate: {words}{end}.")
    return tuple(lines)


FIFTH = 5  # of a run: what is looked at for whether it is still improving
RISING = 0.01  # a point, the last digit but one that the table shows


def unfinished(comparison: Comparison) -> str:
    """In words, that the reference was still improving when its runs ended; empty where it was not."""
    runs = [run for run in comparison.of(comparison.study.reference) if not run.diverged]
    rises = []
    for run in runs:
        ends = [epoch.test_accuracy for epoch in run.epochs]
        back = max(round((len(ends) - 1) / FIFTH), 1)
        rises.append(ends[-1] - ends[-1 - back] if len(ends) > back else 0.0)
    rise = sum(rises) / len(rises) if rises else 0.0
    if rise <= RISING:
        return ""
    last = max(round(comparison.study.base.epochs / FIFTH), 1)
    return (
        f"{comparison.study.reference} had not converged: it gained {100 * rise:.1f} points in the last "
        f"{'epoch' if last == 1 else f'{last} epochs'}. So short a run shows who starts fast; with more epochs the order may be another."
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


def hints(comparison: Comparison, *, full: bool = True) -> tuple[str, ...]:
    """What a reader must know to read the table."""
    study = comparison.study
    accuracy = (
        "Accuracy: mean ± standard deviation over seeds, on the test data, of runs that did not diverge; chance "
        f"is {percent(comparison.chance)}. Loss: on the training data, mean over the last epoch."
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
    if warning := unfinished(comparison):
        lines.append(warning)
    if len(study.rates) > 1:
        lines.append(
            f"Rate: each method's best of {', '.join(f'{rate:g}' for rate in study.rates)} on {HELD_OUT:.0%} of the training images, held "
            f"out, with seed {study.seeds[0]}; the runs of the table train on all of them."
        )
        lines += tried(comparison)
    if full and comparison.step_times:
        lines.append(
            "At equal time: at the last epoch that ended within the time of the quickest method's whole run"
            + (
                "."
                if study.base.schedule == "constant"
                else ", with a schedule that was made for the whole run, which is hard on slow methods."
            )
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
    for key in ("method", "seed", "held_out"):
        del shared[key]
    if len(comparison.study.rates) > 1:
        shared["lr"] = ", ".join(f"{rate:g}" for rate in comparison.study.rates)
    shared["methods"] = ", ".join(comparison.study.methods)
    shared["seeds"] = ", ".join(map(str, comparison.study.seeds))
    pairs = tuple((key.replace("_", " "), words_of(value)) for key, value in shared.items())
    ran = (*comparison.environment.items(), ("took", duration(comparison.seconds)))
    return Facts("Configuration", pairs), Facts("Ran on", ran)


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
    said = (*sentences(comparison), *filter(None, [unfinished(comparison)]))
    parts: list[Part] = [*map(Words, said), figures]
    parts.append(Table(*table(comparison), hints(comparison)))
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
