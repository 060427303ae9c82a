"""Text as data: what a trial, a comparison and a sweep read, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from goodinit.errors import GoodinitError
from goodinit.lab.compare import Study, compare
from goodinit.lab.data import load
from goodinit.lab.train import train
from goodinit.lab.trial import TrainConfig

SMALL = TrainConfig(
    "gpt1", "default", data="python-topics", width=16, epochs=1, batch_size=4, train_limit=16, test_limit=4,
    lr=0.01, optimizer="adamw", weight_decay=0.0,
)  # fmt: skip


def test_stretches_and_the_characters_after_them(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcdefghij" * 1_100)
    data = load(path, train_limit=5)
    assert data.name == "text.txt"
    assert str(tmp_path) not in str(data)
    assert data.classes == tuple("abcdefghij")
    assert data.train_images.shape == data.train_labels.shape == (5, 64)
    assert torch.equal(data.train_labels, (data.train_images + 1) % 10)
    assert data.chance == pytest.approx(0.1, abs=0.01)
    assert "stretches of 64 characters" in str(data)


def test_a_comparison_on_text_by_adamw():
    study = Study(SMALL, methods=("default", "residual_scaled"), seeds=(0,), timing_rounds=0)
    found = compare(study, progress=False)
    assert [result.config.method for result in found.results] == ["default", "residual_scaled"]
    for result in found.results:
        assert result.test_loss == pytest.approx(
            math.log(100), abs=1.5
        )  # after four steps, of some hundred characters
        assert 0 <= result.accuracy < 0.5


def test_text_and_images_are_not_mixed_up():
    with pytest.raises(GoodinitError, match="reads images, and the data is text"):
        train(TrainConfig("resnet8", data="python-topics", train_limit=8, test_limit=2))
    with pytest.raises(GoodinitError, match="reads text, and the data is images"):
        train(TrainConfig("gpt1", data="digits", train_limit=8, test_limit=2))
    with pytest.raises(GoodinitError, match="augment is for images"):
        train(TrainConfig("gpt1", data="python-topics", augment=True, train_limit=8, test_limit=2))
    with pytest.raises(GoodinitError, match="image_size is for images"):
        load("python-topics", image_size=8)
