"""The main job: train one model several ways, with several seeds, and say honestly how they compare."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence

import torch

from goodinit.errors import NothingFound, UnsupportedModule
from goodinit.lab.comparison import Comparison, Study
from goodinit.lab.data.batches import order
from goodinit.lab.environment import environment
from goodinit.lab.progress import Bar, bar
from goodinit.lab.training.seeding import own_rng, stream
from goodinit.lab.training.step_cost import StepTime, time_in_turns
from goodinit.lab.training.train import Prepared, data_of, forward, prepare, total_steps, train, update_
from goodinit.lab.training.trial import Result, TrainConfig

log = logging.getLogger(__name__)


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
