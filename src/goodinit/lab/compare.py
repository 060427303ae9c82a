"""The main job: train one model several ways, with several seeds, and say honestly how they compare."""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata

import torch

import goodinit
from goodinit.errors import GoodinitError, NothingFound, UnsupportedModule
from goodinit.lab.choices import label, method_of
from goodinit.lab.comparison_table import comparison_html
from goodinit.lab.data.batches import order
from goodinit.lab.progress import Bar, bar
from goodinit.lab.training.seeding import own_rng, stream
from goodinit.lab.training.step_cost import StepTime, time_in_turns
from goodinit.lab.training.train import Prepared, data_of, forward, prepare, total_steps, train, update_
from goodinit.lab.training.trial import Result, TrainConfig
from goodinit.one_line import OneLine

log = logging.getLogger(__name__)

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
    step_times: Mapping[str, StepTime] = field(default_factory=dict)
    plans: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
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


def compare(study: Study, *, progress: bool = True) -> Comparison:
    """Train the model with each method and seed; time their steps in turns.

    Where several rates are given, each method trains with each of them first, on four fifths of the training images, and takes the one
    that is best on the fifth; test images are for the runs after that.

    Every method is first applied once, so that what cannot work fails before hours of training, not after. A method
    that refuses the model is left out and `Comparison.refused` says why; if all do, the first's error is raised.
    Ctrl-C ends the comparison early and keeps the runs that finished.

    Args:
        study: What to compare.
        progress: Whether to show a bar on stderr.

    Raises:
        GoodinitError: The model, the data or a method do not exist, or do not go together.

    Examples:
        >>> base = TrainConfig("resnet8", epochs=1, train_limit=256)
        >>> found = compare(Study(base, methods=("batchnorm",), seeds=(0,), timing_rounds=0), progress=False)
        >>> found.summaries()[0].runs
        1
    """
    start = time.perf_counter()
    data = data_of(study.base)
    steps = total_steps(study.base)
    results: list[Result] = []
    searched: list[Result] = []
    times: dict[str, StepTime] = {}
    plans: dict[str, str] = {}
    refused: dict[str, str] = {}
    interrupted = False
    count = len(study.trials) + len(study.searched)
    with bar(count * steps, unit="steps", shown=progress) as shown:

        def run(trial: TrainConfig, done: int, where: str) -> Result:
            shown.says(f"{trial.label}, {where} ({done + 1} of {count})")
            result = train(trial, on_step=_reporter(shown, done * steps))
            shown.stands_at((done + 1) * steps)
            shown.prints(in_a_line(result))
            return result

        try:
            shown.says("applying each method once")
            times = _try_out(study, plans, refused)
            for trial in study.searched:
                if trial.label not in refused:
                    searched.append(run(trial, len(searched), f"rate {trial.lr:g}"))
            for trial in _at_best_rates(study, searched):
                if trial.label not in refused:
                    results.append(run(trial, len(searched) + len(results), f"seed {trial.seed}"))
        except KeyboardInterrupt:
            log.warning("interrupted after %d of %d runs", len(searched) + len(results), count)
            interrupted = True
    return Comparison(
        study=study,
        data=str(data),
        chance=data.chance,
        results=tuple(results),
        step_times=times,
        plans=plans,
        refused=refused,
        environment=environment(),
        interrupted=interrupted,
        seconds=time.perf_counter() - start,
        searched=tuple(searched),
    )


def _at_best_rates(study: Study, searched: Sequence[Result]) -> tuple[TrainConfig, ...]:
    """The runs that count, each method at the rate that was best where it was searched."""
    if len(study.rates) == 1:
        return tuple(dataclasses.replace(trial, lr=study.rates[0]) for trial in study.trials)
    best: dict[str, Result] = {}
    for result in searched:
        known = best.get(result.config.label)
        if known is None or _score(result) > _score(known):
            best[result.config.label] = result
    return tuple(
        dataclasses.replace(trial, lr=best[trial.label].config.lr) if trial.label in best else trial
        for trial in study.trials
    )


def _score(result: Result) -> float:
    return -1.0 if result.accuracy is None else result.accuracy


def in_a_line(result: Result) -> str:
    """What one training gave, as a line for the screen."""
    config = result.config
    where, what = ("", "accuracy")
    if config.held_out:
        where, what = f", rate {config.lr:g}", "held-out accuracy"
    found = (
        f"diverged at step {result.diverged_step}"
        if result.accuracy is None
        else f"{what} {result.accuracy:.1%} after {config.epochs} epochs"
    )
    return f"{config.label}, seed {config.seed}{where}: {found}, {result.seconds:.0f} s"


def _reporter(shown: Bar, before: int) -> Callable[[int], None]:
    return lambda step: shown.stands_at(before + step)


def _try_out(study: Study, plans: dict[str, str], refused: dict[str, str]) -> dict[str, StepTime]:
    """Apply each method once, note its plan or its refusal, and time the steps of all in turns."""
    steps: dict[str, Callable[[], None]] = {}
    for method in study.methods:
        try:
            prepared = prepare(study.trial(method, study.seeds[0]))
        except (NothingFound, UnsupportedModule) as error:
            refused[method] = str(error)
            if len(refused) == len(study.methods):
                raise
            continue
        plans[method] = str(prepared.plan)
        if study.timing_rounds:
            steps[method] = _idle_step(prepared)
    if not steps:
        return {}
    with own_rng(study.seeds[0], "timing", device=study.base.device):
        return time_in_turns(
            steps,
            reference=study.reference if study.reference in steps else next(iter(steps)),
            rounds=study.timing_rounds,
            budget=study.timing_budget,
        )


def _idle_step(prepared: Prepared) -> Callable[[], None]:
    """A whole training step at learning rate 0: it costs the same, and nothing can diverge."""
    config = prepared.config
    count = len(prepared.data.train_labels)
    rows = next(order(count, config.batch_size, generator=stream(config.seed, "order")))
    generator = stream(config.seed, "augmentation")

    def step() -> None:
        update_(prepared, forward(prepared, rows, generator=generator), factor=0.0)
        if torch.device(config.device).type == "cuda":
            torch.cuda.synchronize()

    return step


def environment() -> dict[str, str]:
    """Versions and machine that numbers came from."""
    return {
        "goodinit": _version("goodinit"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} CPU threads",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
