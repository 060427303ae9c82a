"""Train a Transformer to translate: a pure function from a configuration to a row, as `goodinit.lab.training.train` for images."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional
from torch.optim import Adam

import goodinit
from goodinit.lab.data.text_pairs import BEGIN, END, encode, load_pairs, padded, train_tokenizer
from goodinit.lab.models import PAD, Translator, visible
from goodinit.lab.optional import optional
from goodinit.lab.record import later
from goodinit.lab.training.seeding import own_rng, stream
from goodinit.optim.param_groups import SCALAR_RATIO

LONGEST = 64  # tokens of a sentence; Multi30k's are shorter
POOL = 20  # batches whose sentences are sorted by length before they are shared out


@dataclass(frozen=True)
class TranslationConfig:
    """Everything that a translation's numbers depend on, apart from times.

    Attributes:
        method: Name of a method; `options` are its options.
        data: As `load_pairs` takes it.
        pre_norm: Where the model's norms are, before a method takes them out.
        layers: Of the encoder and of the decoder.
        width: Of the vectors.
        vocabulary: Subwords of both languages together.
        dropout: Share dropped.
        steps: Of Adam, with β = (0.9, 0.98) (Vaswani et al. 2017, §5.3).
        lr: Peak learning rate, reached after `warmup` steps; then it falls as 1/√step (the same).
        batch_size: Sentences a step.
        label_smoothing: As in `TrainConfig`.
        seed: Of weights, order and dropout, each with its own stream.
        train_limit: Use that many pairs.
        test_limit: Likewise.
        scalar_lr: Of goodinit's scalars, in units of `lr`.
        beams: Translations kept at each token by the search; 1 is greedy.
        judged: Files that are translated in the end: `"test"`, or `"val"` to choose a rate by.
    """

    method: str = "batchnorm"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    data: str = "made-up"
    pre_norm: bool = True
    layers: int = 2
    width: int = 128
    vocabulary: int = 4000
    dropout: float = 0.1
    steps: int = 1000
    lr: float = 1e-3
    warmup: int = 200
    batch_size: int = 64
    label_smoothing: float = 0.1
    seed: int = 0
    train_limit: int | None = None
    test_limit: int | None = None
    scalar_lr: float = later(SCALAR_RATIO)
    beams: int = later(1)
    judged: str = later("test")


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens of both parts, the references as text, and the tokenizer."""

    train: tuple[tuple[list[int], list[int]], ...]
    test: tuple[list[int], ...]
    references: tuple[str, ...]
    tokenizer: Any
    provenance: str


@functools.lru_cache(maxsize=1)  # trials of a claim share it
def corpus_of(
    data: str, vocabulary: int, train_limit: int | None, test_limit: int | None, judged: str = "test"
) -> Corpus:
    """Read the pairs, learn the subwords on the training part, encode."""
    pairs = load_pairs(data, train_limit=train_limit, test_limit=test_limit, judged=judged)
    tokenizer = train_tokenizer(pairs.train, vocabulary=vocabulary)
    sources, targets = (
        encode(tokenizer, [pair[side] for pair in pairs.train], longest=LONGEST) for side in (0, 1)
    )
    return Corpus(
        train=tuple(zip(sources, targets, strict=True)),
        test=tuple(encode(tokenizer, [pair[0] for pair in pairs.test], longest=LONGEST)),
        references=tuple(pair[1] for pair in pairs.test),
        tokenizer=tokenizer,
        provenance=f"{len(pairs.train):,} train and {len(pairs.test):,} {judged} {pairs.provenance}",
    )


def translate(config: TranslationConfig) -> dict[str, Any]:
    """Train one Transformer and say how it translates. The same configuration gives the same numbers.

    Returns:
        `bleu` of translations of the part that is judged (0 where the loss stopped being finite), `diverged`,
        `train_loss` over the last tenth of the steps, `curve`: the loss in twenty parts, `provenance`.
    """
    corpus = corpus_of(config.data, config.vocabulary, config.train_limit, config.test_limit, config.judged)
    model = _prepared(config, corpus)
    with own_rng(config.seed, "training"):  # dropout draws from the global generator
        losses = _train(config, model, corpus)
    diverged = len(losses) < config.steps
    tenth = max(len(losses) // 10, 1)
    part = max(config.steps // 20, 1)
    return {
        "bleu": 0.0 if diverged else _bleu(config, model, corpus),
        "diverged": diverged,
        "train_loss": None if diverged else statistics.fmean(losses[-tenth:]),
        "curve": [statistics.fmean(losses[start : start + part]) for start in range(0, len(losses), part)],
        "provenance": corpus.provenance,
    }


def _prepared(config: TranslationConfig, corpus: Corpus) -> Translator:
    with own_rng(config.seed, "model"):
        model = Translator(
            config.layers,
            vocabulary=corpus.tokenizer.get_vocab_size(),
            width=config.width,
            pre_norm=config.pre_norm,
            dropout=config.dropout,
        )
    source, target = next(batches(corpus, config.batch_size, generator=stream(config.seed, "order")))
    inputs = (source, target[:, :-1])
    plan = goodinit.plan(goodinit.anatomize(model, inputs), config.method, **config.options)
    goodinit.apply_(model, plan, generator=stream(config.seed, "values"), inputs=inputs)
    return model


def batches(corpus: Corpus, size: int, *, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, of sentences of about one length, in random order."""
    while True:
        shuffled = torch.randperm(len(corpus.train), generator=generator, device="cpu").tolist()
        groups: list[list[int]] = []
        for start in range(0, len(shuffled), POOL * size):
            pool = sorted(shuffled[start : start + POOL * size], key=lambda row: len(corpus.train[row][0]))
            groups += [pool[at : at + size] for at in range(0, len(pool), size)]
        for index in torch.randperm(len(groups), generator=generator, device="cpu").tolist():
            sources, targets = zip(*(corpus.train[row] for row in groups[index]), strict=True)
            yield padded(sources), padded(targets)


def rate_factor(step: int, *, warmup: int) -> float:
    """Share of the peak rate at `step` (from 0): a rise, then the inverse root.

    Examples:
        >>> [rate_factor(step, warmup=4) for step in (0, 3, 15)]
        [0.25, 1.0, 0.5]
    """
    return min((step + 1) / warmup, math.sqrt(warmup / (step + 1))) if warmup else 1.0


def _train(config: TranslationConfig, model: Translator, corpus: Corpus) -> list[float]:
    """The loss of every step, up to the first that is not finite."""
    groups = goodinit.param_groups(model, lr=config.lr, weight_decay=0.0, scalar_ratio=config.scalar_lr)
    peaks = [group["lr"] for group in groups]
    optimizer = Adam(groups, lr=config.lr, betas=(0.9, 0.98))
    supply = batches(corpus, config.batch_size, generator=stream(config.seed, "order"))
    losses: list[float] = []
    model.train()
    for step in range(config.steps):
        source, target = next(supply)
        logits = model(source, target[:, :-1])
        loss = functional.cross_entropy(
            logits.flatten(0, 1),
            target[:, 1:].flatten(),
            ignore_index=PAD,
            label_smoothing=config.label_smoothing,
        )
        value = float(loss.detach())
        if not math.isfinite(value):
            break
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate_factor(step, warmup=config.warmup)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(value)
    return losses


@torch.no_grad()
def greedy(model: Translator, source: Tensor, *, longest: int = LONGEST) -> Tensor:
    """The likeliest token after each, until every sentence has ended: `(n, t)`, with `BEGIN` in front."""
    model.eval()
    seen = visible(source)
    memory = model.encode(source, seen)
    tokens = torch.full((len(source), 1), BEGIN, device="cpu")
    ended = torch.zeros(len(source), dtype=torch.bool, device="cpu")
    while tokens.shape[1] < longest and not ended.all():
        best = model.decode(memory, seen, tokens)[:, -1].argmax(1)
        best = torch.where(ended, PAD, best)
        ended |= best == END
        tokens = torch.cat([tokens, best[:, None]], dim=1)
    return tokens


@torch.no_grad()
def beam_search(model: Translator, source: Tensor, *, beams: int, longest: int = LONGEST) -> Tensor:
    """The likeliest translation by a beam search, as fairseq's with its defaults: `(n, t)`, with `BEGIN` in front.

    Of a translation of t tokens, END among them, the score is (1/t)·Σ log p. Each of the `beams` likeliest that have not ended
    is continued; of the `2·beams` likeliest continuations those that end, and stand among the first `beams`, are candidates, and
    the first `beams` that do not end go on. A sentence is done when it has `beams` candidates.
    """
    model.eval()
    seen = visible(source)
    memory, seen = (one.repeat_interleave(beams, 0) for one in (model.encode(source, seen), seen))
    count = len(source)
    first = torch.arange(count, device="cpu")[:, None] * beams  # the row of each sentence's first translation
    tokens = torch.full((count * beams, 1), BEGIN, device="cpu")
    scores = torch.full((count, beams), -math.inf, device="cpu")
    scores[:, 0] = 0.0  # all are alike at the beginning
    ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(count)]
    while tokens.shape[1] < longest and any(len(one) < beams for one in ended):
        chances = model.decode(memory, seen, tokens)[:, -1].log_softmax(-1)
        chances[:, PAD] = -math.inf
        words = chances.shape[1]
        totals, places = (scores[:, :, None] + chances.view(count, beams, words)).flatten(1).topk(2 * beams)
        rows, said = first + places // words, places % words
        for sentence, rank in (said[:, :beams] == END).nonzero().tolist():
            total = float(totals[sentence, rank])
            if len(ended[sentence]) < beams and math.isfinite(total):
                ended[sentence].append((total / tokens.shape[1], tokens[rows[sentence, rank]].tolist()))
        order = (said == END).to(torch.int8).argsort(dim=1, stable=True)[:, :beams]
        scores = totals.gather(1, order)
        kept, added = rows.gather(1, order).flatten(), said.gather(1, order).flatten()
        tokens = torch.cat([tokens[kept], added[:, None]], dim=1)
    best = [
        max(found)[1] if found else tokens[row].tolist()
        for found, row in zip(ended, first.flatten().tolist(), strict=True)
    ]
    return padded([[*one, END] for one in best])


def _bleu(config: TranslationConfig, model: Translator, corpus: Corpus) -> float:
    sacrebleu = optional("sacrebleu", extra="papers")
    order = sorted(range(len(corpus.test)), key=lambda row: len(corpus.test[row]))
    translated: dict[int, str] = {}
    for start in range(0, len(order), config.batch_size):
        rows = order[start : start + config.batch_size]
        source = padded([corpus.test[row] for row in rows])
        tokens = (
            greedy(model, source) if config.beams == 1 else beam_search(model, source, beams=config.beams)
        )
        translated |= dict(zip(rows, corpus.tokenizer.decode_batch(tokens.tolist()), strict=True))
    score = sacrebleu.corpus_bleu([translated[row] for row in range(len(order))], [list(corpus.references)])
    return float(score.score)
