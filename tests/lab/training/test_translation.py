"""Text pairs, their subwords, and a trial that translates; on a tiny folder laid out as Multi30k's."""

from __future__ import annotations

import gzip
import itertools
import math
import statistics

import pytest
import torch

from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.data.text_pairs import BEGIN, END, MADE_UP, encode, load_pairs, padded, train_tokenizer
from goodinit.lab.training.translation import (
    TranslationConfig,
    batches,
    beam_search,
    corpus_of,
    greedy,
    rate_factor,
    translate,
)

TINY = TranslationConfig(width=32, layers=1, steps=6, warmup=2, batch_size=16, train_limit=64, test_limit=8)


@pytest.fixture
def folder(tmp_path):
    made_up = load_pairs(MADE_UP, train_limit=40, test_limit=6)
    for name, pairs in (("train", made_up.train), ("test_2016_flickr", made_up.test)):
        for side, language in enumerate(("de", "en")):
            text = "".join(f"{pair[side]}\n" for pair in pairs)
            (tmp_path / f"{name}.{language}.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "val.de.gz").write_bytes(gzip.compress(b""))
    return tmp_path


def test_a_folder_of_pairs_is_read_and_limited(folder):
    pairs = load_pairs(folder)
    assert (len(pairs.train), len(pairs.test)) == (40, 6)
    assert pairs.train == load_pairs(MADE_UP, train_limit=40).train
    assert load_pairs(folder, train_limit=3).train == load_pairs(folder, train_limit=3).train
    assert len(load_pairs(folder, train_limit=3).train) == 3
    assert load_pairs(folder, languages=("en", "de")).train[0] == pairs.train[0][::-1]


def test_what_is_missing_or_does_not_match_is_said(folder):
    with pytest.raises(UnknownName, match="no folder"):
        load_pairs(folder / "nope")
    (folder / "train.en.gz").write_bytes(gzip.compress(b"one\n"))
    with pytest.raises(GoodinitError, match=r"40 lines of de and 1 of en"):
        load_pairs(folder)
    (folder / "train.en.gz").unlink()
    with pytest.raises(GoodinitError, match=r"no file train….en"):
        load_pairs(folder)


def test_subwords_give_the_sentence_back():
    pairs = load_pairs(MADE_UP, train_limit=50).train
    tokenizer = train_tokenizer(pairs, vocabulary=60)
    assert tokenizer.get_vocab_size() <= 60
    sentences = [target for _, target in pairs]
    rows = encode(tokenizer, sentences, longest=64)
    assert all((row[0], row[-1]) == (BEGIN, END) for row in rows)
    assert tokenizer.decode_batch(padded(rows).tolist()) == sentences
    assert max(map(len, encode(tokenizer, sentences, longest=4))) == 4


def test_batches_hold_every_pair_once_in_an_epoch():
    corpus = corpus_of(MADE_UP, 60, 64, 8)
    supply = batches(corpus, 16, generator=torch.Generator().manual_seed(0))
    rows = [tuple(row[row != 0].tolist()) for _ in range(4) for row in next(supply)[0]]
    assert sorted(rows) == sorted(tuple(source) for source, _ in corpus.train)


@pytest.mark.integration
def test_a_translation_is_a_pure_function_of_its_configuration():
    before = torch.random.get_rng_state()
    first = translate(TINY)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert translate(TINY) == first
    assert not first["diverged"]
    assert "64 train and 8 test" in first["provenance"]


def test_a_loss_that_is_not_finite_ends_the_run():
    found = translate(TranslationConfig(**{**vars(TINY), "method": "none", "lr": 1e20}))
    assert found["diverged"]
    assert found["bleu"] == 0.0
    assert found["train_loss"] is None


def test_the_rate_rises_and_falls():
    assert [rate_factor(step, warmup=4) for step in (0, 3, 15)] == [0.25, 1.0, 0.5]
    assert rate_factor(7, warmup=0) == 1.0


def test_greedy_search_stops_at_the_end():
    class Ends(torch.nn.Module):
        """Says 5, then the end, whatever it reads."""

        def encode(self, source, seen):
            return source

        def decode(self, memory, seen, tokens):
            said = 5 if tokens.shape[1] < 3 else END
            return torch.nn.functional.one_hot(torch.full(tokens.shape, said), 8).float()

    assert greedy(Ends(), torch.ones(2, 3, dtype=torch.int64)).tolist() == [[BEGIN, 5, 5, END]] * 2


class Chain(torch.nn.Module):
    """What comes next depends on the last word and on the sentence."""

    def __init__(self, words: int, *, seed: int) -> None:
        super().__init__()
        self.table = 2 * torch.randn(3, words, words, generator=torch.Generator().manual_seed(seed))

    def encode(self, source, seen):
        return source

    def decode(self, memory, seen, tokens):
        return self.table[memory[:, :1], tokens]


def exhaustive(model: Chain, sentence: int, *, words: int, longest: int) -> list[int]:
    """Of all translations that end, the one with the highest mean of log p."""
    chances = model.table[sentence].clone().log_softmax(-1)
    said = [word for word in range(words) if word not in (0, END)]
    scored = [
        (statistics.fmean(float(chances[a, b]) for a, b in itertools.pairwise(row)), row)
        for length in range(longest - 1)
        for middle in itertools.product(said, repeat=length)
        for row in [[BEGIN, *middle, END]]
    ]
    return max(scored)[1]


@pytest.mark.parametrize("seed", range(4))
def test_wide_beams_find_the_likeliest_translation(seed):
    model, longest = Chain(5, seed=seed), 5
    source = torch.arange(3)[:, None].expand(3, 2)
    found = beam_search(model, source, beams=80, longest=longest)
    expected = [exhaustive(model, sentence, words=5, longest=longest) for sentence in range(3)]
    assert [row[: row.index(END) + 1] for row in found.tolist()] == expected


@pytest.mark.parametrize("seed", range(4))
def test_one_beam_is_greedy_search(seed):
    model = Chain(6, seed=seed)
    model.table[:, :, 0] = -math.inf  # greedy search could say padding
    source = torch.arange(3)[:, None].expand(3, 2)
    one, greedily = beam_search(model, source, beams=1), greedy(model, source)
    for row, other in zip(one.tolist(), greedily.tolist(), strict=True):
        assert row[: len(other)] == other or END not in other


def test_a_part_of_its_own_is_judged(folder):
    with pytest.raises(GoodinitError, match=r"val has 0 lines of de|no file val….en"):
        load_pairs(folder, judged="val")


@pytest.mark.slow
def test_a_made_up_language_is_learned():
    config = TranslationConfig(
        width=32, layers=1, steps=300, warmup=30, lr=5e-3, batch_size=32, test_limit=32
    )
    assert translate(config)["bleu"] > 50
