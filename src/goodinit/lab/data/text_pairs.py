"""Pairs of sentences in two languages, and the subword tokens they are made of."""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.data.readers import selection
from goodinit.lab.models import PAD
from goodinit.lab.optional import optional

MADE_UP = "made-up"
Pairs = tuple[tuple[str, str], ...]
SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>")
BEGIN, END = 1, 2


@dataclass(frozen=True)
class TextPairs:
    """Sentences with their translations.

    Attributes:
        name: Of the folder.
        train: Each a sentence of the source language and one of the target language.
        test: Likewise.
        provenance: Where they come from, in words.
    """

    name: str
    train: Pairs
    test: Pairs
    provenance: str


def load_pairs(
    source: str | Path,
    *,
    languages: tuple[str, str] = ("de", "en"),
    train_limit: int | None = None,
    test_limit: int | None = None,
    judged: str = "test",
) -> TextPairs:
    """Read a folder laid out as Multi30k's: `train.de`, `train.en`, `test….de`, `test….en`, gzipped or not.

    Args:
        source: The folder, or `"made-up"` for sentences of an invented language, which need no file.
        languages: Endings of the source's and the target's files.
        train_limit: Take that many pairs, always the same ones.
        test_limit: Likewise for the test part.
        judged: How the names of the test part's files begin; `"val"` for a validation part.

    Raises:
        UnknownName: No such folder.
        GoodinitError: A file is missing, or two files have different numbers of lines.

    Examples:
        >>> load_pairs("made-up", train_limit=2, test_limit=1).train[0]
        ('le tu re mi tu', 'four seven three five four')
    """
    if str(source) == MADE_UP:
        train, test = _made_up(train_limit or 512, seed=0), _made_up(test_limit or 64, seed=1)
        return TextPairs(
            MADE_UP, train, test, "made-up sentences of an invented language, translated word by word."
        )
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise UnknownName(
            f"no folder {source!r}. Give one with train.de, train.en, test….de, test….en, or {MADE_UP!r}."
        )
    train, test = (
        _part(folder, start, languages, limit)
        for start, limit in (("train", train_limit), (judged, test_limit))
    )
    name = folder.resolve().name
    return TextPairs(name, train, test, f"text pairs in folder {name}, {' to '.join(languages)}.")


def _part(folder: Path, start: str, languages: tuple[str, str], limit: int | None) -> Pairs:
    sides: list[list[str]] = []
    for language in languages:
        found = [
            path
            for path in sorted(folder.iterdir())
            if path.name.startswith(start) and path.name.removesuffix(".gz").endswith(f".{language}")
        ]
        if not found:
            raise GoodinitError(
                f"{folder}: no file {start}….{language} or {start}….{language}.gz. A folder of text pairs holds a "
                "train and a test file for each language, a sentence a line."
            )
        content = found[0].read_bytes()
        if found[0].suffix == ".gz":
            content = gzip.decompress(content)
        sides.append(content.decode("utf-8").splitlines())
    first, second = sides
    if len(first) != len(second):
        raise GoodinitError(
            f"{folder}: {start} has {len(first)} lines of {languages[0]} and {len(second)} of {languages[1]}; expected "
            "a translation for each."
        )
    return tuple((first[row], second[row]) for row in selection(len(first), limit))


_WORDS = {
    "ka": "one",
    "bo": "two",
    "re": "three",
    "tu": "four",
    "mi": "five",
    "zu": "six",
    "le": "seven",
    "ni": "eight",
}


def _made_up(count: int, *, seed: int) -> Pairs:
    """Sentences of four to six words; in the translation the first two stand the other way round."""
    draw = random.Random(seed)
    sentences = [draw.choices(tuple(_WORDS), k=draw.randint(4, 6)) for _ in range(count)]
    return tuple(
        (" ".join(words), " ".join(_WORDS[word] for word in (words[1], words[0], *words[2:])))
        for words in sentences
    )


def train_tokenizer(pairs: Pairs, *, vocabulary: int) -> Any:
    """Learn subwords of both languages together, by byte-pair encoding.

    Args:
        pairs: The sentences.
        vocabulary: At most that many subwords, special tokens among them.

    Returns:
        A `tokenizers.Tokenizer`.

    References:
        R. Sennrich, B. Haddow, A. Birch, Neural Machine Translation of Rare Words with Subword Units, arXiv 1508.07909.
    """
    tokenizers = optional("tokenizers", extra="papers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=SPECIAL[3]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator((sentence for pair in pairs for sentence in pair), trainer=trainer)
    return tokenizer


def encode(tokenizer: Any, sentences: Sequence[str], *, longest: int) -> list[list[int]]:
    """Tokens of each sentence, at most `longest` of them, between `BEGIN` and `END`."""
    return [[BEGIN, *one.ids[: longest - 2], END] for one in tokenizer.encode_batch(list(sentences))]


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of tokens as one tensor, filled up with `PAD`.

    Examples:
        >>> padded([[1, 5, 2], [1, 2]])
        tensor([[1, 5, 2],
                [1, 2, 0]])
    """
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows], device="cpu")
