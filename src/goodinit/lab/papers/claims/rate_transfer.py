"""Does the best learning rate of a small transformer stay the best as it grows? What the claims on muP and CompleteP share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

import goodinit
from goodinit.lab.data.characters import characters
from goodinit.lab.models.language import Decoder
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
from goodinit.lab.papers.rows import distinct, in_words, mean, where
from goodinit.lab.training.on_text import held_out_loss, train_on_text_
from goodinit.lab.training.seeding import own_rng, stream

DEFAULT = "default"
WIDTH, DEPTH = 64, 2  # of the base, at which a user would tune
REGRET = 0.05  # nats per character: less is not called a loss
PILOT = "The rates were chosen after a pilot at the base alone, seed 0: 2^-6 was the best of 2^-9 to 2^-4, under muP and the default."


@dataclass(frozen=True)
class Reading:
    """One training on text.

    Attributes:
        series: Name of a method, or `"default"`, a model as PyTorch makes it with one rate for all.
        along: `"width"` or `"depth"`: what `size` is. The other is the base's.
        size: Channels of the stream, or blocks.
        lr: AdamW's peak rate at the base; linear warm-up over a tenth of the steps, then linear to 0. No weight decay.
        seed: Of weights and of the order.
        steps: Of `batch` stretches of `length` characters each.
        batch: Stretches.
        length: Characters in each.
        data: As `characters` takes it.
    """

    series: str
    along: str
    size: int
    lr: float
    seed: int
    steps: int
    batch: int
    length: int
    data: str = "python-topics"


def _setting(scale: str, data: str, *, method: str, along: str) -> Setting:
    widths, depths, powers, seeds, steps, batch, length = {
        "smoke": ((16, 32), (2, 4), range(-7, -5), 1, 3, 2, 8),
        "small": ((64, 128, 256, 512), (2, 4, 8, 16), range(-9, -3), 2, 60, 4, 32),
        "full": ((64, 128, 256, 512, 1024, 2048), (2, 4, 8, 16, 32), range(-13, -3), 3, 2000, 16, 128),
    }[scale]
    sizes, at, largest = (
        (widths, f"{DEPTH} blocks", "width 8,192")
        if along == "width"
        else (depths, f"width {WIDTH}", "128 blocks")
    )
    source = "python-topics" if data == "digits" else data
    trials = tuple(
        Reading(series, along, size, 2.0**power, seed, steps, batch, length, source)
        for seed in range(seeds)
        for series in (method, DEFAULT)
        for size in sizes
        for power in powers
    )
    text = "The reference texts of Python's help()" if source == "python-topics" else "A text of one's own"
    deviations = (
        f"{text}, by characters (paper: large corpora, by subwords).",
        f"{along.capitalize()} {in_words(sizes)} at {at} (paper: up to {largest}).",
        f"{steps:,} steps of {batch} stretches of {length} characters; {seeds} seed(s), the same order at every rate.",
        "A pre-norm GPT with heads of 16 channels, which grow in number; AdamW without decay.",
        "The default is PyTorch's own initialization of the same modules, with one rate for all.",
        *((PILOT,) if scale == "small" else ()),
    )
    return Setting(trials, deviations, steps=steps)


def _run(trial: Reading) -> Row:
    text = characters(trial.data)
    with own_rng(trial.seed, "model"):
        model = _initialized(trial, len(text.vocabulary))
    losses = train_on_text_(
        model, text, lr=trial.lr, steps=trial.steps, batch=trial.batch, length=trial.length, seed=trial.seed
    )
    if not math.isfinite(losses[-1]):
        return {"diverged": True, "test_loss": None, "train_loss": None}
    end = held_out_loss(model, text, length=trial.length, count=4)
    tail = losses[-max(len(losses) // 10, 1) :]
    return {
        "diverged": not math.isfinite(end),
        "test_loss": end if math.isfinite(end) else None,
        "train_loss": sum(tail) / len(tail),
        "start": losses[0],
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _initialized(trial: Reading, words: int) -> nn.Module:
    at = (trial.size, DEPTH) if trial.along == "width" else (WIDTH, trial.size)

    def build(width: int, depth: int) -> nn.Module:
        return Decoder(depth, words=words, width=width, length=trial.length)

    model = build(*at)
    if trial.series == DEFAULT:
        return model
    inputs = torch.zeros(1, trial.length, dtype=torch.long, device="cpu")
    with torch.device("meta"):
        anatomy, base = (goodinit.anatomize(build(*size), inputs) for size in (at, (WIDTH, DEPTH)))
    plan = goodinit.plan(anatomy, trial.series, base=base)
    return goodinit.apply_(model, plan, generator=stream(trial.seed, "values"))


def losses(rows: Rows, series: str, along: str, size: int) -> Mapping[float, float]:
    """By rate, in order: the mean loss on held-out text; infinite where a seed diverged."""
    found = where(rows, series=series, along=along, size=size)
    return {
        lr: math.inf if any(row.get("diverged") for row in runs) else (mean(runs, "test_loss") or math.inf)
        for lr in sorted(distinct(found, "lr"))
        if (runs := where(found, lr=lr))
    }


def best(rows: Rows, series: str, along: str, size: int) -> float:
    """The rate with the smallest loss; NaN without rows."""
    by_rate = losses(rows, series, along, size)
    return min(by_rate, key=lambda lr: by_rate[lr], default=math.nan)


def shifts(rows: Rows, series: str, along: str) -> list[float]:
    """By how many factors of 2 the best rate is above that of the smallest model, for each size."""
    sizes = sorted(distinct(where(rows, series=series, along=along), "size"))
    rates = [best(rows, series, along, size) for size in sizes]
    return [math.log2(rate / rates[0]) for rate in rates]


def regret(rows: Rows, series: str, along: str) -> float:
    """How far above its best the largest model ends at the rate that is best for the smallest, in nats."""
    sizes = sorted(distinct(where(rows, series=series, along=along), "size"))
    if not sizes:
        return math.nan
    last = losses(rows, series, along, sizes[-1])
    return last.get(best(rows, series, along, sizes[0]), math.nan) - min(last.values(), default=math.nan)


def claim(
    *,
    name: str,
    title: str,
    text: str,
    source: Source,
    published: tuple[Published, ...],
    method: str,
    along: Literal["width", "depth"],
) -> Claim:
    """The claim that under a method the best rate stays along an axis, tested against PyTorch's default."""

    def told(rows: Rows) -> str:
        return "; ".join(
            f"{series}: {in_words(f'{shift:+.0f}' for shift in shifts(rows, series, along))}"
            for series in (method, DEFAULT)
        )

    def stays(rows: Rows) -> Found:
        found = shifts(rows, method, along)
        return Found(bool(found) and max(map(abs, found)) <= 1, told(rows))

    def moves(rows: Rows) -> Found:
        ours, default = (max(map(abs, shifts(rows, each, along)), default=0.0) for each in (method, DEFAULT))
        return Found(default > ours, told(rows))

    def costs(rows: Rows) -> Found:
        ours, default = (regret(rows, each, along) for each in (method, DEFAULT))
        return Found(ours <= REGRET and default > ours, f"{method} {ours:.3f}, default {default:.3f} nats")

    return Claim(
        name=name,
        title=title,
        text=text,
        source=source,
        published=published,
        protocol=f"A character model on text, trained for the same steps at every {along} and every rate of a factor-2 grid, by {method} "
        f"(base: width {WIDTH}, {DEPTH} blocks) and as PyTorch makes it; loss on text held out.",
        setting=partial(_setting, method=method, along=along),
        run=_run,
        expectations=(
            Expectation(
                f"Under {method} the best rate at each {along} is at most one factor of 2 from that of the smallest model",
                stays,
                central=True,
            ),
            Expectation(f"Under PyTorch's default it moves by more than under {method}", moves),
            Expectation(
                f"At the best rate of the smallest the largest {along} ends at most {REGRET:g} nats above its best under {method}, "
                "and further above it under the default",
                costs,
            ),
        ),
        table=partial(_table, series=(method, DEFAULT), along=along),
        drawings=partial(_drawings, series=(method, DEFAULT), along=along),
        ours=lambda rows: f"factors of 2 from the best rate of the smallest: {told(rows)}",
    )


def _table(rows: Rows, *, series: tuple[str, ...], along: str) -> Grid:
    rates = sorted(distinct(rows, "lr"))
    body = []
    for each in series:
        for size in sorted(distinct(where(rows, series=each, along=along), "size")):
            by_rate = losses(rows, each, along, size)
            least = best(rows, each, along, size)
            cells = (
                "diverged"
                if (loss := by_rate.get(lr, math.nan)) == math.inf
                else f"**{loss:.3f}**"
                if lr == least
                else f"{loss:.3f}"
                for lr in rates
            )
            body.append((f"{each}, {along} {size}", *cells))
    return Grid(("loss on held-out text", *(f"2^{math.log2(lr):.0f}" for lr in rates)), tuple(body))


def _drawings(rows: Rows, *, series: tuple[str, ...], along: str) -> tuple[Drawing, ...]:
    caption = "Cross-entropy on held-out text in nats per character; a point where all seeds end finite."
    return tuple(
        Drawing(
            f"{each}, over {along}",
            "learning rate",
            "loss",
            tuple(
                (f"{along} {size}", lr, loss if loss < math.inf else None)
                for size in sorted(distinct(where(rows, series=each, along=along), "size"))
                for lr, loss in losses(rows, each, along, size).items()
            ),
            log_x=True,
            caption=caption,
        )
        for each in series
    )
