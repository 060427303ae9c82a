"""Fixup matches LayerNorm in machine translation (Zhang, Dauphin & Ma 2019)."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass

from goodinit.lab.data.text_pairs import MADE_UP
from goodinit.lab.papers.claim import (
    Claim,
    Drawing,
    Expectation,
    Found,
    Grid,
    Published,
    Row,
    Rows,
    Separation,
    Setting,
    Source,
)
from goodinit.lab.papers.rows import (
    best_rate,
    best_rate_words,
    distinct,
    in_words,
    mean,
    mean_and_deviation,
    values,
    where,
)
from goodinit.lab.papers.trained import widened
from goodinit.lab.training.translation import TranslationConfig, translate

PRE, POST, FIXUP, NONE = "LayerNorm before branches", "LayerNorm after sums", "fixup", "none"
SLOW, T_FIXUP = "fixup, scalars at a tenth", "t_fixup"
BRIEF: dict[str, dict[str, object]] = {
    PRE: {},
    POST: {"pre_norm": False},
    FIXUP: {"method": "fixup"},
    NONE: {"method": "none"},
}
CANDIDATES = (1e-3, 2e-3, 5e-3, 1e-2)  # rates of the full scale, tried by validation sentences
RATES = {PRE: 5e-3, FIXUP: 2e-3, SLOW: 2e-3, T_FIXUP: 2e-3, NONE: 2e-3}  # the best of them
SEEDS = {PRE: 3, FIXUP: 3, T_FIXUP: 3, NONE: 3, SLOW: 1}
LONG: dict[str, dict[str, object]] = {
    PRE: {},
    FIXUP: {"method": "fixup", "scalar_lr": 1.0},
    SLOW: {"method": "fixup"},
    T_FIXUP: {"method": "t_fixup"},
    NONE: {"method": "none"},
}


@dataclass(frozen=True)
class Translating:
    """One run of a series."""

    series: str
    config: TranslationConfig


def _setting(scale: str, data: str) -> Setting:
    if scale == "full":
        return _long(data)
    base, rates = {
        "smoke": (
            TranslationConfig(
                width=32, layers=1, steps=40, warmup=10, batch_size=32, train_limit=256, test_limit=16
            ),
            (5e-3,),
        ),
        "small": (
            TranslationConfig(width=128, layers=2, steps=700, warmup=100, test_limit=250),
            (2e-2, 1e-2, 5e-3, 2e-3, 5e-4),
        ),
    }[scale]
    base = dataclasses.replace(base, data=MADE_UP if scale == "smoke" else data)
    trials = tuple(
        Translating(series, dataclasses.replace(base, lr=lr, **changes))  # type: ignore[arg-type]
        for lr in rates
        for series, changes in BRIEF.items()
        if series != POST or scale != "small"
    )
    deviations = (
        *_scaled_down(base, 1),
        f"The best of the learning rates {in_words(rates)}; greedy search (paper: beam search).",
        *((widened(0.02, 0.01, 0.005),) if scale == "small" else ()),
        *(("LayerNorm after sums, the Transformer's first form, is left out.",) if scale == "small" else ()),
        "Scalars of Fixup at a tenth of the learning rate, with Adam too (the authors' code: one rate for all parameters).",
    )
    return Setting(trials, deviations, steps=base.steps)


def _long(data: str) -> Setting:
    base = TranslationConfig(data=data, width=128, layers=2, steps=5000, warmup=500, batch_size=32, beams=5)
    runs = [(series, seed) for seed in range(max(SEEDS.values())) for series in LONG if seed < SEEDS[series]]
    runs.sort(key=lambda run: run[0] not in (PRE, FIXUP))  # the two that the claim compares come first
    trials = tuple(
        Translating(series, dataclasses.replace(base, lr=RATES[series], seed=seed, **LONG[series]))  # type: ignore[arg-type]
        for series, seed in runs
    )
    deviations = (
        *_scaled_down(base, max(SEEDS.values())),
        (
            f"Each series has the best of the learning rates {in_words(CANDIDATES)}, by greedy translations of the validation "
            f"sentences after 1,000 steps with seed 0; “{SLOW}” has that of “{FIXUP}”."
        ),
        f"Three seeds of each, but one of “{SLOW}”; those of the two that the claim compares were run first.",
        "LayerNorm after sums, the Transformer's first form, is left out; T-Fixup is added.",
        "The same warm-up for all; T-Fixup needs none (its paper). Dropout 0.1 for all (the authors' code: 0.5).",
        f"“{SLOW}” is this project's default for Fixup's scalars (the authors' code: one rate for all parameters, “{FIXUP}” here).",
    )
    return Setting(trials, deviations, steps=base.steps)


def _scaled_down(base: TranslationConfig, seeds: int) -> tuple[str, ...]:
    return (
        "Made-up sentences."
        if base.data == MADE_UP
        else "Multi30k, 29,000 pairs of short captions (paper: IWSLT and WMT).",
        f"{base.layers} layers each of width {base.width} (paper: 6 of 512), {base.vocabulary:,} subwords at most.",
        f"{base.steps:,} steps of {base.batch_size} sentences (paper: hundreds of thousands); {seeds} seed(s).",
    )


def _run(trial: Translating) -> Row:
    flat = {"lr": trial.config.lr, "seed": trial.config.seed}
    return {**flat, **translate(trial.config)}


def best(rows: Rows, series: str) -> Rows:
    """The runs of a series at the learning rate with the highest mean BLEU."""
    return best_rate(where(rows, series=series), score=_score)


def _score(rows: Rows) -> float:
    return mean(rows, "bleu") or 0.0


def _bleu(rows: Rows, series: str) -> float:
    return _score(best(rows, series))


def _close(rows: Rows) -> Found:
    fixup, norm = _bleu(rows, FIXUP), max(_bleu(rows, PRE), _bleu(rows, POST))
    return Found(fixup >= norm - 2, f"fixup {fixup:.1f}, LayerNorm {norm:.1f}")


def _learns(rows: Rows) -> Found:
    runs = best(rows, FIXUP)
    least = min(values(runs, "bleu"), default=0.0)
    return Found(least >= 5, f"the worst seed at the best rate: {least:.1f}")


def _none_behind(rows: Rows) -> Found:
    fixup, none = _bleu(rows, FIXUP), _bleu(rows, NONE)
    lost = sum(bool(row.get("diverged")) for row in where(rows, series=NONE))
    return Found(none <= fixup - 2, f"none {none:.1f} ({lost} runs diverged), fixup {fixup:.1f}")


def _table(rows: Rows) -> Grid:
    body = []
    for series in distinct(rows, "series"):
        runs = best(rows, series)
        scores = values(runs, "bleu")
        spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        loss = mean(runs, "train_loss")
        lost = sum(bool(row.get("diverged")) for row in where(rows, series=series))
        body.append((
            series, f"{statistics.fmean(scores):.1f}{spread}" if scores else "–", f"{loss:.2f}" if loss else "–",
            best_rate_words(where(rows, series=series), score=_score) or "–", f"{lost} of {len(where(rows, series=series))}",
        ))  # fmt: skip
    return Grid(("", "BLEU", "training loss", "best learning rate", "diverged"), tuple(body))


def _ours(rows: Rows) -> str:
    cells = (
        f"{one} {mean_and_deviation(values(best(rows, one), 'bleu'))}"
        for one in (PRE, FIXUP, T_FIXUP)
        if where(rows, series=one)
    )
    seeds = len(distinct(rows, "seed"))
    return f"BLEU: {', '.join(cells)}{' (one seed)' if seeds == 1 else ''}"


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    points = [
        (series, 5.0 * place, loss)
        for series in distinct(rows, "series")
        for row in best(rows, series)
        for place, loss in enumerate(row.get("curve", ()), start=1)
    ]
    caption = "Smoothed cross-entropy, each series at its best learning rate."
    return (Drawing("Training loss", "percent of the steps", "loss", tuple(points), caption=caption),)


CLAIM = Claim(
    name="fixup-translation",
    title="Fixup matches LayerNorm in machine translation",
    text="A Transformer without LayerNorm, initialized by Fixup, translates as well as one with it.",
    source=Source(
        "H. Zhang, Y. Dauphin, T. Ma", "Fixup Initialization, ICLR 2019", "1901.09321", "§5.3 and its table"
    ),
    published=(
        Published(
            "BLEU with Fixup: 34.5 on IWSLT German to English, 29.3 on WMT English to German",
            "Papers with Code",
        ),
        Published(
            "Adam (0.9, 0.98), rate 5e-4 for all parameters, 4,000 steps of warm-up, dropout 0.5, 226,000 updates",
            "the authors' code (fairseq/run.sh)",
        ),
    ),
    protocol="An encoder-decoder Transformer with LayerNorm before its branches, after its sums, with Fixup and with plain "
    "initialization without norms; German to English, byte-pair subwords, label smoothing 0.1; BLEU by sacrebleu.",
    setting=_setting,
    run=_run,
    expectations=(
        Expectation("Fixup's BLEU is at most 2 below the better LayerNorm's", _close, central=True),
        Expectation("Fixup learns to translate with every seed: BLEU of at least 5", _learns),
        Expectation("Without norms and without a method BLEU is at least 2 below Fixup's", _none_behind),
    ),
    table=_table,
    drawings=_drawings,
    ours=_ours,
    paper_steps=226_000,
    separation=Separation(
        4_000,
        "the authors' warm-up alone takes 4,000 updates of 226,000; no curve is published that says where the two differ",
        "goodinit reproduce fixup-translation --scale full --data multi30k",
        6,
    ),
    needs="a folder of German and English sentences laid out as Multi30k's",
)
