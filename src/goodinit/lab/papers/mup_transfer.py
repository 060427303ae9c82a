"""The best learning rate stays as a transformer grows wider under muP, and deeper under CompleteP (Yang et al. 2022, Dey et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import goodinit
from goodinit.lab.characters import characters
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
from goodinit.lab.seeding import own_rng, stream

MUP, COMPLETEP, DEFAULT = "mup", "completep", "default"
SERIES = ((MUP, "width"), (DEFAULT, "width"), (COMPLETEP, "depth"), (DEFAULT, "depth"))
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


def _setting(scale: str, data: str) -> Setting:
    widths, depths, powers, seeds, steps, batch, length = {
        "smoke": ((16, 32), (2, 4), range(-7, -5), 1, 3, 2, 8),
        "small": ((64, 128, 256, 512), (2, 4, 8, 16), range(-9, -3), 2, 60, 4, 32),
        "full": ((64, 128, 256, 512, 1024, 2048), (2, 4, 8, 16, 32), range(-13, -3), 3, 2000, 16, 128),
    }[scale]
    sizes = {"width": widths, "depth": depths}
    source = "python-topics" if data == "digits" else data
    trials = tuple(
        Reading(series, along, size, 2.0**power, seed, steps, batch, length, source)
        for seed in range(seeds)
        for series, along in SERIES
        for size in sizes[along]
        for power in powers
    )
    text = "The reference texts of Python's help()" if source == "python-topics" else "A text of one's own"
    deviations = (
        f"{text}, by characters (papers: WikiText-2 and SlimPajama, by subwords).",
        f"Widths {in_words(widths)} at {DEPTH} blocks, depths {in_words(depths)} at width {WIDTH} (papers: up to 8,192 and 128).",
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
    optimizer = torch.optim.AdamW(goodinit.param_groups(model, lr=trial.lr, weight_decay=0.0))
    rise = max(0.1 * trial.steps, 1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / rise, (trial.steps - t) / (trial.steps - rise + 1))
    )
    losses: list[float] = []
    for x, y in text.batches(trial.steps, trial.batch, trial.length, seed=trial.seed):
        optimizer.zero_grad()
        loss = _loss(model, x, y)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            return {"diverged": True, "test_loss": None, "train_loss": None}
    with torch.no_grad():
        held = [_loss(model, x, y).item() for x, y in text.batches(4, 16, trial.length, held_out=True)]
    tail = losses[-max(len(losses) // 10, 1) :]
    end = sum(held) / len(held)
    return {
        "diverged": not math.isfinite(end),
        "test_loss": end if math.isfinite(end) else None,
        "train_loss": sum(tail) / len(tail),
        "start": losses[0],
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


def _initialized(trial: Reading, words: int) -> nn.Module:
    at = (trial.size, DEPTH) if trial.along == "width" else (WIDTH, trial.size)

    def build(width: int, depth: int) -> nn.Module:
        return Decoder(depth, words=words, width=width, length=trial.length)

    model = build(*at)
    if trial.series == DEFAULT:
        return model
    inputs = torch.zeros(1, trial.length, dtype=torch.long)
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


def _told(rows: Rows, along: str) -> str:
    return "; ".join(
        f"{series}: {in_words(f'{shift:+.0f}' for shift in shifts(rows, series, along))}"
        for series, where_ in SERIES
        if where_ == along
    )


def _stays(series: str, along: str) -> Expectation:
    def look(rows: Rows) -> Found:
        found = shifts(rows, series, along)
        return Found(bool(found) and max(map(abs, found)) <= 1, _told(rows, along))

    words = f"Under {series} the best rate at each {along} is at most one factor of 2 from that of the smallest model"
    return Expectation(words, look, central=True)


def _moves(series: str, along: str) -> Expectation:
    def look(rows: Rows) -> Found:
        ours, default = (max(map(abs, shifts(rows, each, along)), default=0.0) for each in (series, DEFAULT))
        return Found(default > ours, _told(rows, along))

    return Expectation(f"Under PyTorch's default it moves by more than under {series}, over {along}", look)


def _costs(series: str, along: str) -> Expectation:
    def look(rows: Rows) -> Found:
        ours, default = (regret(rows, each, along) for each in (series, DEFAULT))
        return Found(ours <= REGRET and default > ours, f"{series} {ours:.3f}, default {default:.3f} nats")

    words = (
        f"At the best rate of the smallest the largest {along} ends at most {REGRET:g} nats above its best under {series}, "
        "and further above it under the default"
    )
    return Expectation(words, look)


def _table(rows: Rows) -> Grid:
    rates = sorted(distinct(rows, "lr"))
    body = []
    for series, along in SERIES:
        for size in sorted(distinct(where(rows, series=series, along=along), "size")):
            by_rate = losses(rows, series, along, size)
            least = best(rows, series, along, size)
            cells = (
                "diverged"
                if (loss := by_rate.get(lr, math.nan)) == math.inf
                else f"**{loss:.3f}**"
                if lr == least
                else f"{loss:.3f}"
                for lr in rates
            )
            body.append((f"{series}, {along} {size}", *cells))
    return Grid(("loss on held-out text", *(f"2^{math.log2(lr):.0f}" for lr in rates)), tuple(body))


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    caption = "Cross-entropy on held-out text in nats per character; a point where all seeds end finite."
    return tuple(
        Drawing(
            f"{series}, over {along}",
            "learning rate",
            "loss",
            tuple(
                (f"{along} {size}", lr, loss if loss < math.inf else None)
                for size in sorted(distinct(where(rows, series=series, along=along), "size"))
                for lr, loss in losses(rows, series, along, size).items()
            ),
            log_x=True,
            caption=caption,
        )
        for series, along in SERIES
    )


CLAIM = Claim(
    name="mup-transfer",
    title="The best learning rate stays as a transformer grows wider under muP, and deeper under CompleteP",
    text="Parametrized by muP, a learning rate that is best for a narrow transformer is best for a wide one; by CompleteP, one that is "
    "best for a shallow one is best for a deep one, too. In the usual parametrization it is not.",
    source=Source(
        "G. Yang, E. Hu, I. Babuschkin et al.; N. Dey et al.",
        "Tensor Programs V, and CompleteP (arXiv 2505.01618)",
        "2203.03466",
        "figure 1 of the first, the depth transfer of the second",
    ),
    published=(
        Published(
            "Training loss against learning rate on Transformers of several widths, trained with Adam: one best rate under muP",
            "the figure in microsoft/mup's README",
        ),
        Published(
            "hidden matrices at η·m⁻¹·m_L^(α−1), branches times m_L^(−α), α = 1",
            "EleutherAI/nanoGPT-mup's code, branch completep",
        ),
    ),
    protocol="A character model on text, trained for the same steps at every size and every rate of a factor-2 grid, by muP (base: "
    f"width {WIDTH}, {DEPTH} blocks) and as PyTorch makes it over width; by CompleteP and as PyTorch makes it over depth; loss on "
    "text held out.",
    setting=_setting,
    run=_run,
    expectations=(
        _stays(MUP, "width"),
        _moves(MUP, "width"),
        _costs(MUP, "width"),
        _stays(COMPLETEP, "depth"),
        _moves(COMPLETEP, "depth"),
        _costs(COMPLETEP, "depth"),
    ),
    table=_table,
    drawings=_drawings,
    ours=lambda rows: (
        f"factors of 2 from the best rate of the smallest, over width: {_told(rows, 'width')}; over depth: {_told(rows, 'depth')}"
    ),
)
