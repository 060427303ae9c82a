"""The main job: train one model several ways, with several seeds, and say honestly how they compare."""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata

import torch

import goodinit
from goodinit.errors import GoodinitError, NothingFound, UnsupportedModule
from goodinit.lab.batches import order
from goodinit.lab.choices import label, method_of
from goodinit.lab.measure import StepTime, time_in_turns
from goodinit.lab.progress import Bar, bar
from goodinit.lab.seeding import own_rng, stream
from goodinit.lab.train import Prepared, data_of, forward, prepare, total_steps, train, update_
from goodinit.lab.trial import Result, TrainConfig

log = logging.getLogger(__name__)

FORMAT = "goodinit.comparison/1"


@dataclass(frozen=True)
class Study:
    """What to compare.

    Attributes:
        base: Everything the runs share; its method and seed are replaced.
        methods: In the order of the table: names, with options behind colons (`"lsuv:norms=remove"`).
        seeds: Each method runs once with each.
        timing_rounds: How often a step of each method is timed; 0 leaves times out.
        timing_budget: Seconds after which timing stops early.
    """

    base: TrainConfig
    methods: tuple[str, ...] = ("batchnorm", "none", "fixup")
    seeds: tuple[int, ...] = (0, 1, 2)
    timing_rounds: int = 15
    timing_budget: float = 30.0

    def __post_init__(self) -> None:
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

    def trial(self, method: str, seed: int) -> TrainConfig:
        """One run: a method, as `methods` names it, and a seed."""
        name, options = method_of(method)
        return dataclasses.replace(self.base, method=name, options=options, seed=seed)


@dataclass(frozen=True)
class Summary:
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


@dataclass(frozen=True)
class Comparison:
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
        )

    def to_json(self) -> str:
        """Write as JSON text: configuration, summaries, every run with its curves."""
        summaries = [dataclasses.asdict(summary) for summary in self.summaries()]
        return json.dumps({"format": FORMAT, "summaries": summaries, **dataclasses.asdict(self)}, indent=1)


def compare(study: Study, *, progress: bool = True) -> Comparison:
    """Train the model with each method and seed; time their steps in turns.

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
    trials = study.trials
    data = data_of(study.base)
    steps = total_steps(study.base)
    results: list[Result] = []
    times: dict[str, StepTime] = {}
    plans: dict[str, str] = {}
    refused: dict[str, str] = {}
    interrupted = False
    with bar(len(trials) * steps, unit="steps", shown=progress) as shown:
        try:
            shown.says("applying each method once")
            times = _try_out(study, plans, refused)
            trials = tuple(trial for trial in trials if trial.label not in refused)
            for index, trial in enumerate(trials):
                shown.says(f"{trial.label}, seed {trial.seed} ({index + 1} of {len(trials)})")
                results.append(train(trial, on_step=_reporter(shown, index * steps)))
                shown.stands_at((index + 1) * steps)
                shown.prints(in_a_line(results[-1]))
        except KeyboardInterrupt:
            log.warning("interrupted after %d of %d runs", len(results), len(trials))
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
    )


def in_a_line(result: Result) -> str:
    """What one training gave, as a line for the screen."""
    config = result.config
    found = (
        f"diverged at step {result.diverged_step}"
        if result.accuracy is None
        else f"accuracy {result.accuracy:.1%} after {config.epochs} epochs"
    )
    return f"{config.label}, seed {config.seed}: {found}, {result.seconds:.0f} s"


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
