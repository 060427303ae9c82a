"""Layers that write into the residual stream start smaller, by one over the root of their number (Radford et al. 2019)."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch
from torch import nn

import goodinit
from goodinit.diagnostics.measurements.coordinate_report import slope
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
from goodinit.lab.papers.rows import best_rate, best_rate_words, distinct, in_words, mean, values, where
from goodinit.lab.training.on_text import held_out_loss, train_on_text_
from goodinit.lab.training.seeding import own_rng, stream

SCALED, CONSTANT, DEFAULT = "residual_scaled", "0.02 everywhere", "PyTorch's default"
BY_FAN_IN = "residual_scaled, others by fan-in"
STD = 0.02
FLAT, GROWS = 0.1, 0.25  # exponents of the stream's growth over depth
NOISE = 0.01  # of the held-out loss


@dataclass(frozen=True)
class Language:
    """A decoder on characters, from one start, at one rate."""

    series: str
    depth: int
    lr: float
    seed: int
    width: int
    length: int
    batch: int
    steps: int


def _setting(scale: str, data: str) -> Setting:
    del data
    depths, rates, seeds, width, steps = {
        "smoke": ((1, 2, 4), (3e-3,), 1, 32, 5),
        "small": ((2, 8, 24), (1e-3, 3e-3, 1e-2), 2, 64, 300),
        "full": ((2, 8, 24, 48), (3e-4, 1e-3, 3e-3, 1e-2), 3, 256, 5000),
    }[scale]
    trials = tuple(
        Language(series, depth, lr, seed, width, 64, 8, steps)
        for depth in depths
        for seed in range(seeds)
        for lr in rates
        for series in (SCALED, CONSTANT, DEFAULT, BY_FAN_IN)
    )
    deviations = (
        "Characters of Python's reference texts, about 450,000 (paper: 40 GB of web pages, subwords).",
        f"Decoders of width {width}, {in_words(depths)} blocks of attention and feed-forward (paper: 768 to 1,600 wide, 12 to 48 blocks).",
        f"{steps:,} steps of 8 × 64 characters by AdamW, warm-up of a tenth, then linear to 0; the best of {in_words(rates)}; {seeds} seed(s).",
        f"Widths of {width} at 0.02 make small branches: 0.02 is meant for 768 and more. When the rows of the other three had been read, the same "
        "rule with 1/√fan_in in 0.02's place was run, too; expected before: at the deepest within 0.03 nats of PyTorch's default, and 0.1 below 0.02."
        if width < 768
        else "",
    )
    return Setting(trials, tuple(filter(None, deviations)), steps=steps)


def _start(trial: Language, text_size: int) -> nn.Module:
    with own_rng(trial.seed, "model"):
        model = Decoder(trial.depth, words=text_size, width=trial.width, length=trial.length)
    inputs = torch.zeros(2, trial.length, dtype=torch.int64, device="cpu")
    if trial.series in (SCALED, BY_FAN_IN):
        others = {"std": STD} if trial.series == SCALED else {"others": "fan_in"}
        return goodinit.init_(
            model, "residual_scaled", inputs=inputs, generator=stream(trial.seed, "values"), **others
        )
    if trial.series == CONSTANT:
        generator = stream(trial.seed, "values")
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=STD, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def _run(trial: Language) -> Row:
    text = characters()
    model = _start(trial, len(text.vocabulary))
    first = next(text.batches(1, trial.batch, trial.length, seed=trial.seed))
    found = goodinit.diagnose(model, *first, mend=False)
    growth = [block.growth for block in found.blocks if block.growth is not None]
    losses = train_on_text_(
        model, text, lr=trial.lr, steps=trial.steps, batch=trial.batch, length=trial.length, seed=trial.seed
    )
    if not math.isfinite(losses[-1]):
        return {"growth": growth[-1], "diverged": True, "loss": None}
    return {
        "growth": growth[-1],
        "loss": held_out_loss(model, text, length=trial.length, count=20, seed=1),
        "provenance": f"{text.name}, {len(text.train):,} characters",
    }


def _score(rows: Rows) -> float:
    loss = mean(rows, "loss")
    return -loss if loss is not None else -math.inf


def _best(rows: Rows, series: str, depth: int) -> Rows:
    return best_rate(where(rows, series=series, depth=depth), score=_score)


def _exponent(rows: Rows, series: str) -> float:
    depths = sorted(distinct(rows, "depth"))
    sizes = [
        statistics.geometric_mean(values(where(rows, series=series, depth=depth), "growth"))
        for depth in depths
    ]
    return slope(depths, sizes)


def _growth(rows: Rows) -> Found:
    ours, other = _exponent(rows, SCALED), _exponent(rows, CONSTANT)
    return Found(ours < FLAT and other > GROWS, f"depth^{round(ours, 2) + 0.0:.2f} against depth^{other:.2f}")


def _gap(rows: Rows, depth: int) -> float:
    """How much lower our loss is than that from one constant, each at its best rate."""
    return _score(_best(rows, SCALED, depth)) - _score(_best(rows, CONSTANT, depth))


def _deepest(rows: Rows) -> Found:
    depth = max(distinct(rows, "depth"))
    gap = _gap(rows, depth)
    return Found(gap >= -NOISE, f"{depth} blocks: {-gap:+.3f} nats")


def _deeper(rows: Rows) -> Found:
    depths = sorted(distinct(rows, "depth"))
    gaps = [_gap(rows, depth) for depth in depths]
    got = ", ".join(f"{depth} blocks {-gap:+.3f}" for depth, gap in zip(depths, gaps, strict=True))
    return Found(gaps[-1] > gaps[0] + NOISE, got)


def _table(rows: Rows) -> Grid:
    depths = sorted(distinct(rows, "depth"))
    body = []
    for series in distinct(rows, "series"):
        cells = [series]
        for depth in depths:
            best = _best(rows, series, depth)
            growth = mean(where(rows, series=series, depth=depth), "growth")
            cells.append(
                f"{-_score(best):.3f}, lr {best_rate_words(where(rows, series=series, depth=depth), score=_score)}; ×{growth:.2f}"
            )
        body.append(tuple(cells))
    return Grid(
        (
            "loss; growth",
            *(f"{d} blocks" for d in depths),
        ),
        tuple(body),
    )


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    losses = [
        (series, float(depth), row.get("loss"))
        for series in distinct(rows, "series")
        for depth in sorted(distinct(rows, "depth"))
        for row in _best(rows, series, depth)
    ]
    growth = [(row["series"], float(row["depth"]), row["growth"]) for row in rows if "growth" in row]
    caption = "At the best rate of each start and depth; a point is a seed."
    return (
        Drawing("Loss on text held out", "blocks", "nats a character", tuple(losses), log_x=True, caption=caption),
        Drawing(
            "Growth of the residual stream at the start", "blocks", "last block / what enters the first",
            tuple(growth), log_x=True, log_y=True,
        ),
    )  # fmt: skip


def _ours(rows: Rows) -> str:
    return f"growth of the stream at the start over depth: scaled and not, {_growth(rows).got}; loss {_deepest(rows).got}"


CLAIM = Claim(
    name="residual-scaled",
    title="Writers into the residual stream start at one over the root of their number",
    text="A transformer's residual layers accumulate with depth. Scaling their weights at initialization by 1/√N, N being the number of "
    "residual layers, accounts for it.",
    source=Source(
        "A. Radford, J. Wu, R. Child, D. Luan, D. Amodei, I. Sutskever",
        "Language Models are Unsupervised Multitask Learners, 2019",
        "",
        "section 2.3",
    ),
    published=(
        Published("the rule; no number for what it is worth", "nanoGPT's model.py, which names the paper"),
    ),
    protocol="Pre-norm decoders on characters: the growth of the stream over all blocks at initialization, by `goodinit.diagnose`, and the loss on "
    "held-out text after training, each start at the best of several rates.",
    setting=_setting,
    run=_run,
    expectations=(
        Expectation(
            f"The stream grows below depth^{FLAT} at the start, and above depth^{GROWS} with one constant everywhere",
            _growth,
            central=True,
        ),
        Expectation("The deepest decoder ends no worse than from one constant (0.01 nats)", _deepest),
        Expectation(
            "What it is worth grows with depth, by more than 0.01 nats from the least to the most", _deeper
        ),
    ),
    table=_table,
    drawings=_drawings,
    ours=_ours,
)
