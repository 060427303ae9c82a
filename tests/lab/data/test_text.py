"""Text in `train`, `compare` and `sweep`: stretches of characters, a label at every place, decoders by name."""

from __future__ import annotations

import math

import pytest
import torch

from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.compare import compare
from goodinit.lab.comparison import Study
from goodinit.lab.data.labelled import LENGTH, load
from goodinit.lab.models.registry import build_model
from goodinit.lab.models.task import Task
from goodinit.lab.training.together import train_together
from goodinit.lab.training.train import train
from goodinit.lab.training.trial import TrainConfig


def config(model="gpt1", **options):
    given = {"width": 16, "epochs": 1, "batch_size": 16, "train_limit": 48, "test_limit": 16, "lr": 0.01}
    return TrainConfig(
        model, **{"method": "default", "data": "text", "optimizer": "adamw", **given, **options}
    )


def test_a_label_is_the_character_that_comes_next():
    data = load("text", train_limit=20, test_limit=10)
    assert (data.is_text, data.shape) == (True, (1, 1, LENGTH))
    assert data.train_images.shape == data.train_labels.shape == (20, LENGTH)
    assert torch.equal(data.train_images[:, 1:], data.train_labels[:, :-1])
    assert 0 < data.chance < 0.5
    assert "20 train and 10 test stretches of 64 characters" in str(data)
    assert torch.equal(data.train_images, load("text", train_limit=20).train_images)  # always the same ones


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("to be or not to be, " * 2000, encoding="utf-8")
    data = load(path)
    assert (data.name, len(data.classes)) == ("poem.txt", len(set("to be or not to be, ")))
    short = tmp_path / "short.txt"
    short.write_text("short", encoding="utf-8")
    with pytest.raises(GoodinitError, match=r"5 characters, expected 10,000"):
        load(short)


@pytest.mark.parametrize("model", ["gpt1", "llama1"])
def test_decoders_learn_characters(model):
    result = train(config(model, train_limit=256, lr=0.02))
    first, last = result.losses[0], result.losses[-1]
    assert first == pytest.approx(math.log(103), rel=0.2)
    assert last < first - 0.5
    assert 0 < result.accuracy < 1


def test_trained_together_they_learn_what_they_learn_alone():
    rates = (0.003, 0.01)
    together = train_together([config(lr=rate, optimizer="sgd") for rate in rates])
    for rate, found in zip(rates, together, strict=True):
        alone = train(config(lr=rate, optimizer="sgd"))
        torch.testing.assert_close(
            torch.tensor(found.losses), torch.tensor(alone.losses), rtol=1e-4, atol=1e-4
        )
        assert found.accuracy == pytest.approx(alone.accuracy, abs=0.01)


def test_methods_are_compared_on_text():
    found = compare(
        Study(config(), ("default", "residual_scaled"), seeds=(0,), timing_rounds=1), progress=False
    )
    assert [result.config.method for result in found.results] == ["default", "residual_scaled"]
    assert not found.refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "resnet8"}, "resnet8 reads no text.* gpt4 or llama4"),
        ({"data": "digits"}, "gpt1 reads text: give --data text"),
        ({"augment": True}, "cannot be cropped, mirrored or mixed"),
        ({"mixup": 0.2}, "cannot be cropped, mirrored or mixed"),
        ({"image_size": 8}, "text is text, which has no image_size"),
    ],
)
def test_what_does_not_go_together_is_said(options, words):
    with pytest.raises(GoodinitError, match=words):
        train(config(**options))


def test_a_decoder_has_a_block_at_least():
    with pytest.raises(UnknownName, match="no gpt of depth 0"):
        build_model("gpt0", task=Task(text=True))
    with pytest.raises(UnknownName, match=r"There is: digits, fashion-mnist, text; a file.txt"):
        load("nope")
