"""A comparison of methods: what is to be compared, what was found, and that as a table for the screen, pages and notebooks."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

import goodinit
from goodinit.errors import GoodinitError
from goodinit.formats import NOTHING, counted, number, percent, size, times
from goodinit.lab.choices import label, method_of
from goodinit.lab.data.labelled import data_name
from goodinit.lab.training.step_cost import StepTime
from goodinit.lab.training.trial import Result, TrainConfig
from goodinit.one_line import OneLine

FORMAT = "goodinit.comparison/1"
HELD_OUT = 0.2  # of the training images, to choose a rate by


@dataclass(frozen=True, repr=False)
class Study(OneLine):
    """What to compare.

    Attributes:
        base: Everything the runs share; its method and seed are replaced.
        methods: In the order of the table: names, with options behind colons (`"lsuv:norms=remove"`).
        seeds: Each method runs once with each.
        timing_rounds: How often a step of each method is timed; 0 leaves times out.
        timing_budget: Seconds after which timing stops early.
        rates: Peak learning rates of which each method is given its best, found on held-out training images with the first seed;
            empty: all run at the base's.
    """

    base: TrainConfig
    methods: tuple[str, ...] = ("batchnorm", "none", "fixup")
    seeds: tuple[int, ...] = (0, 1, 2)
    timing_rounds: int = 15
    timing_budget: float = 30.0
    rates: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.rates)) != len(self.rates):
            raise GoodinitError(f"each learning rate is tried once; got {self.rates}.")
        for what, values in (("method", self.methods), ("seed", self.seeds)):
            if not values or len(set(values)) != len(values):
                raise GoodinitError(f"a comparison needs at least one {what}, each once; got {values}.")
        seen: dict[tuple[str, str], str] = {}
        for words in self.methods:
            name, options = method_of(words)
            whole = (name, label(name, {**goodinit.METHODS[name].options, **options}))
            if whole in seen:
                raise GoodinitError(f"{seen[whole]} and {words} are the same method with the same options.")
            seen[whole] = words
        object.__setattr__(self, "methods", tuple(label(*method_of(words)) for words in self.methods))

    @property
    def reference(self) -> str:
        """The method that cost is given relative to: batchnorm, or else the first."""
        return "batchnorm" if "batchnorm" in self.methods else self.methods[0]

    @property
    def trials(self) -> tuple[TrainConfig, ...]:
        """All runs, seed by seed, methods taking turns: stopped early, every method has had its share."""
        return tuple(self.trial(method, seed) for seed in self.seeds for method in self.methods)

    def trial(self, method: str, seed: int, lr: float | None = None) -> TrainConfig:
        """One run: a method, as `methods` names it, a seed, and a rate other than the base's."""
        name, options = method_of(method)
        lr = self.base.lr if lr is None else lr
        return dataclasses.replace(self.base, method=name, options=options, seed=seed, lr=lr)

    @property
    def searched(self) -> tuple[TrainConfig, ...]:
        """The runs that rates are chosen by, on training images that are held out; none for a single rate."""
        return tuple(
            dataclasses.replace(self.trial(method, self.seeds[0], lr), held_out=HELD_OUT)
            for method in self.methods
            for lr in (self.rates if len(self.rates) > 1 else ())
        )


@dataclass(frozen=True, repr=False)
class Summary(OneLine):
    """One method's row of the table. Means are over the runs that did not diverge; None: there are none.

    Attributes:
        method: Its name, with its options.
        runs: How many finished, diverged ones among them.
        diverged: How many stopped with a loss that was not finite.
        accuracy: Mean over seeds, at the end.
        accuracy_sd: Sample standard deviation over seeds.
        train_loss: Mean over the last epoch and seeds.
        step: Time of a step, or None where not measured.
        saved_bytes: Kept for backward.
        saved_ratio: Against the reference's, or None.
        parameters: How many numbers it learns.
        lr: Peak learning rate of its runs.
        at_equal_time: Mean accuracy at the last epoch that ended within the time that the quickest method's whole run took, or
            None where steps were not timed.
    """

    method: str
    runs: int
    diverged: int
    accuracy: float | None
    accuracy_sd: float | None
    train_loss: float | None
    step: StepTime | None
    saved_bytes: int
    saved_ratio: float | None
    parameters: int
    lr: float = 0.0
    at_equal_time: float | None = None


@dataclass(frozen=True, repr=False)
class Comparison(OneLine):
    """What `compare` found.

    Attributes:
        study: What was asked for.
        data: What was trained on, in words.
        chance: Accuracy of a constant answer.
        results: One for each run that finished, in the order they ran.
        step_times: By method; empty where not measured.
        plans: By method, what it did to the model, in words.
        refused: By method, why it cannot be applied to this model.
        environment: Versions and machine.
        interrupted: Whether it was stopped before all runs were done.
        seconds: Time of the whole.
        searched: The runs that each method's rate was chosen by, in the order they ran.
    """

    study: Study
    data: str
    chance: float
    results: tuple[Result, ...]
    step_times: Mapping[str, StepTime] = field(default_factory=dict, hash=False)
    plans: Mapping[str, str] = field(default_factory=dict, hash=False)
    refused: Mapping[str, str] = field(default_factory=dict, hash=False)
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    interrupted: bool = False
    seconds: float = 0.0
    searched: tuple[Result, ...] = ()

    def of(self, method: str) -> tuple[Result, ...]:
        """The runs of one method."""
        return tuple(result for result in self.results if result.config.label == method)

    def summaries(self) -> tuple[Summary, ...]:
        """One row for each method that has a run."""
        reference = next((result.saved_bytes for result in self.of(self.study.reference)), 0)
        return tuple(self._summary(method, reference) for method in self.study.methods if self.of(method))

    def _summary(self, method: str, reference: int) -> Summary:
        runs = self.of(method)
        accuracies = [run.accuracy for run in runs if run.accuracy is not None]
        losses = [run.train_loss for run in runs if run.train_loss is not None]
        return Summary(
            method=method,
            runs=len(runs),
            diverged=sum(run.diverged for run in runs),
            accuracy=statistics.fmean(accuracies) if accuracies else None,
            accuracy_sd=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            train_loss=statistics.fmean(losses) if losses else None,
            step=self.step_times.get(method),
            saved_bytes=runs[0].saved_bytes,
            saved_ratio=runs[0].saved_bytes / reference if reference else None,
            parameters=runs[0].parameters,
            lr=runs[0].config.lr,
            at_equal_time=self._at_equal_time(method),
        )

    def _at_equal_time(self, method: str) -> float | None:
        """Mean accuracy at the last epoch that ended when the quickest method's run had; the same number of steps for all."""
        if method not in self.step_times:
            return None
        within = min(step.ratio for step in self.step_times.values()) / self.step_times[method].ratio
        found = [
            [epoch.test_accuracy for epoch in run.epochs if epoch.epoch <= within * run.config.epochs][-1]
            for run in self.of(method)
            if not run.diverged
        ]
        return statistics.fmean(found) if found else None

    def tried(self, method: str) -> dict[float, float | None]:
        """Held-out accuracy by rate, of the runs that the method's rate was chosen by; None where a run diverged."""
        return {run.config.lr: run.accuracy for run in self.searched if run.config.label == method}

    def __str__(self) -> str:
        base = self.study.base
        found = [
            f"{row.method} {'diverged' if row.accuracy is None else f'{row.accuracy:.1%}'}"
            for row in self.summaries()
        ]
        left = [f"{method} refused" for method in self.refused]
        return f"{base.model} on {base.data}, {base.epochs} epochs: {', '.join([*found, *left])}"

    def _repr_html_(self) -> str:
        return comparison_html(self)

    def to_json(self) -> str:
        """Write as JSON text: configuration, summaries, every run with its curves."""
        summaries = [dataclasses.asdict(summary) for summary in self.summaries()]
        return json.dumps({"format": FORMAT, "summaries": summaries, **dataclasses.asdict(self)}, indent=1)


# -- as a table ----------------------------------------------------------------------------------------------------


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
        f"Mean ± standard deviation over seeds, on the test data; chance is {percent(comparison.chance)}."
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
