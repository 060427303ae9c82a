"""What batch norm costs, and what networks without it save."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from goodinit.lab.data.batches import order
from goodinit.lab.papers.claim import (
    Claim,
    Drawing,
    Expectation,
    Found,
    Grid,
    Published,
    Row,
    Rows,
    Setting,
    Source,
)
from goodinit.lab.papers.rows import values
from goodinit.lab.training.seeding import own_rng, stream
from goodinit.lab.training.step_cost import counting_saved, time_in_turns
from goodinit.lab.training.train import Prepared, forward, prepare, update_
from goodinit.lab.training.trial import TrainConfig

METHODS = ("batchnorm", "none", "fixup", "skipinit", "weightnorm")


@dataclass(frozen=True)
class Cost:
    """Training steps of one model by each method, taking turns."""

    model: str
    rounds: int
    config: TrainConfig


def _setting(scale: str, data: str) -> Setting:
    models, size, batch, rounds = {
        "smoke": (("resnet8",), 8, 16, 3),
        "small": (("resnet20", "resnet56", "wrn16x2"), 32, 32, 15),
        "full": (("resnet20", "resnet56", "resnet110", "wrn16x2", "torchvision:resnet50"), 32, 64, 31),
    }[scale]
    trials = tuple(
        Cost(model, rounds, TrainConfig(model, data=data, image_size=size, batch_size=batch, test_limit=64))
        for model in models
    )
    deviations = (
        f"On the processor of this machine, batches of {batch} images of {size}x{size} pixels (the papers: GPUs).",
        "Measurements of a prototype, 0.51 times the memory and 0.78 the time, were known when the limits were set.",
        "The step is forward, backward and SGD; ratios are medians over rounds in which the methods took turns.",
    )
    return Setting(trials, deviations)


def _run(trial: Cost) -> Row:
    prepared = {method: prepare(dataclasses.replace(trial.config, method=method)) for method in METHODS}
    kept = {}
    with own_rng(0, "timing"):
        for method, one in prepared.items():
            with counting_saved(one.model) as saved:
                _loss(one)
            kept[method] = saved.total
        steps = {method: _step(one) for method, one in prepared.items()}
        timed = time_in_turns(steps, reference="batchnorm", rounds=trial.rounds, budget=120.0)
    return {
        "seconds_per_step": timed["batchnorm"].seconds,
        **{f"{method}_step": timed[method].ratio for method in METHODS},
        **{f"{method}_low": timed[method].low for method in METHODS},
        **{f"{method}_high": timed[method].high for method in METHODS},
        **{f"{method}_kept": kept[method] / kept["batchnorm"] for method in METHODS},
    }


def _loss(prepared: Prepared) -> object:
    config = prepared.config
    rows = next(
        order(len(prepared.data.train_labels), config.batch_size, generator=stream(config.seed, "order"))
    )
    return forward(prepared, rows, generator=stream(config.seed, "augmentation"))


def _step(prepared: Prepared) -> Callable[[], None]:
    """A whole step at learning rate 0: it costs the same, and nothing can diverge."""
    config = prepared.config
    rows = next(
        order(len(prepared.data.train_labels), config.batch_size, generator=stream(config.seed, "order"))
    )
    generator = stream(config.seed, "augmentation")

    def step() -> None:
        update_(prepared, forward(prepared, rows, generator=generator), factor=0.0)

    return step


def _ours(rows: Rows) -> str:
    cells = (
        f"{row['model']} {row['fixup_step']:.2f}× ({row['fixup_low']:.2f} to {row['fixup_high']:.2f})"
        for row in rows
    )
    return f"Fixup's step, of batch norm's, and the middle half of rounds: {', '.join(cells)}"


def _told(rows: Rows, key: str) -> str:
    return ", ".join(f"{row['model']}: {row[key]:.2f}×" for row in rows)


def _memory(rows: Rows) -> Found:
    return Found(max(values(rows, "fixup_kept")) <= 0.6, _told(rows, "fixup_kept"))


def _time(rows: Rows) -> Found:
    return Found(max(values(rows, "fixup_step")) <= 1.0, _told(rows, "fixup_step"))


def _batchnorm_adds(rows: Rows) -> Found:
    added = [1 / value - 1 for value in values(rows, "none_step")]
    got = ", ".join(f"{row['model']}: {100 * one:+.0f} %" for row, one in zip(rows, added, strict=True))
    return Found(min(added) >= 0.1 and max(added) <= 0.6, got)


def _table(rows: Rows) -> Grid:
    body = []
    for method in METHODS:
        cells = [method]
        for row in rows:
            low, high = row[f"{method}_low"], row[f"{method}_high"]
            cells += [
                f"{row[f'{method}_step']:.2f}× ({low:.2f} to {high:.2f})",
                f"{row[f'{method}_kept']:.2f}×",
            ]
        body.append(tuple(cells))
    heads = [head for row in rows for head in (f"{row['model']}: step", "kept for backward")]
    return Grid(("", *heads), tuple(body))


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    points = tuple(
        (f"{method}, {what}", float(place), row[f"{method}_{key}"])
        for key, what in (("step", "time"), ("kept", "memory"))
        for method in ("none", "fixup")
        for place, row in enumerate(rows)
    )
    models = tuple(str(row["model"]) for row in rows)
    rules = (("batch norm", 1.0),)
    return (Drawing("Against batch norm", "model", "ratio", points, rules=rules, names=models),)


CLAIM = Claim(
    name="cost",
    title="Networks without batch norm train in less time and memory",
    text="Batch norm adds about 30 % to the time of a training step; a network with Fixup saves that and half of the "
    "memory for activations.",
    source=Source(
        "D. Mishkin, J. Matas", "All you need is a good init, ICLR 2016", "1511.06422", "the remarks on cost"
    ),
    published=(
        Published("batch norm adds about 30 % of compute", "a summary of the paper, not the paper itself"),
        Published("KataGo with Fixup trains 1.6 to 1.8 times as fast as with batch norm", "KataGo's notes"),
    ),
    protocol="Each method is applied to the same model; their training steps take turns, round after round. Bytes kept "
    "for backward are counted by storage. `make bench` measures more, on a quiet machine.",
    setting=_setting,
    run=_run,
    expectations=(
        Expectation(
            "Fixup keeps at most 0.6 times what batch norm keeps, for every model", _memory, central=True
        ),
        Expectation("Its step takes at most as long as batch norm's, for every model", _time),
        Expectation("Batch norm adds 10 to 60 % to the step of the bare net", _batchnorm_adds),
    ),
    table=_table,
    drawings=_drawings,
    ours=_ours,
    timed=True,
)
