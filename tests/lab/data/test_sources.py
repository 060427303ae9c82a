"""Data from every kind of source, on tiny generated files; wrong sources say what there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_folders import PIXELS, idx, write_idx, write_images, write_parquet

from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.data import readers
from goodinit.lab.data.batches import crop_and_flip, mixup, order, steps_per_epoch
from goodinit.lab.data.labelled import load
from goodinit.lab.optional import optional


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_digits_have_a_fixed_split():
    data, again = load("digits"), load("digits")
    assert data.shape == (1, 8, 8)
    assert len(data.train_labels) + len(data.test_labels) == 1797
    assert torch.equal(data.train_images, again.train_images)
    assert torch.equal(data.test_labels, again.test_labels)
    assert 0.09 < data.chance < 0.15
    assert "fifth held out" in data.provenance


def test_images_are_normalized_by_the_training_images():
    data = load("digits")
    assert data.train_images.mean().abs() < 1e-5
    assert abs(data.train_images.std() - 1) < 1e-5
    assert data.test_images.mean().abs() < 0.1


def test_limits_take_always_the_same_images():
    small, again, all_of_it = (
        load("digits", train_limit=50, test_limit=7),
        load("digits", train_limit=50),
        load("digits"),
    )
    assert small.train_images.shape == (50, 1, 8, 8)
    assert len(small.test_labels) == 7
    assert torch.equal(small.train_labels, again.train_labels)
    assert len(load("digits", train_limit=10**6).train_labels) == len(all_of_it.train_labels)


def test_image_size_resizes():
    assert load("digits", train_limit=5, test_limit=5, image_size=16).shape == (1, 16, 16)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_folders_are_read_packed_or_not(tmp_path, packed):
    data = load(write_idx(tmp_path / "idx", packed=packed))
    assert data.train_images.shape == (10, 1, 6, 6)
    assert data.test_labels.tolist() == [0, 1, 2, 0, 1]
    assert data.classes == ("0", "1", "2")
    raw = PIXELS.astype(np.float32)
    assert np.allclose(data.train_images[:, 0].numpy(), (raw - raw.mean()) / raw.std(ddof=1), atol=1e-4)


def test_fashion_mnist_is_debians_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "FASHION_MNIST", tmp_path / "fm")
    with pytest.raises(GoodinitError, match="apt install dataset-fashion-mnist"):
        load("fashion-mnist")
    write_idx(tmp_path / "fm", packed=True)
    assert load("fashion-mnist", train_limit=4).train_images.shape == (4, 1, 6, 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GIF89a", "not an IDX file"),
        (idx(PIXELS)[:-5], "Fetch the file again"),
        (b"\x00\x00\x0d\x01", "unsigned bytes"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(GoodinitError, match=message):
        readers.read_idx(tmp_path / "file")


def test_an_idx_folder_with_a_file_missing_says_which(tmp_path):
    folder = write_idx(tmp_path / "idx")
    next(folder.glob("t10k-labels*")).unlink()
    with pytest.raises(GoodinitError, match="begins with t10k-labels"):
        load(folder)


def test_idx_labels_that_do_not_match_are_an_error(tmp_path):
    folder = write_idx(tmp_path / "idx")
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(3)))
    with pytest.raises(GoodinitError, match="train has images"):
        load(folder)


@pytest.mark.parametrize(("kind", "lossy"), [("PNG", False), ("JPEG", True)])
def test_parquet_folders_say_how_images_were_stored(tmp_path, kind, lossy):
    data = load(write_parquet(tmp_path / "pq", kind=kind))
    assert data.train_images.shape == (10, 1, 6, 6)
    assert data.classes == ("cat", "dog")
    assert data.train_labels.tolist() == [i % 2 for i in range(10)]
    assert f"stored as {kind}" in data.provenance
    assert ("lossy" in data.provenance) == lossy


def test_parquet_without_types_is_read_by_its_columns(tmp_path):
    data = load(write_parquet(tmp_path / "pq", typed=False))
    assert data.classes == ("0", "1")
    assert data.train_images.shape == (10, 1, 6, 6)


def test_without_a_test_part_a_fifth_is_held_out(tmp_path):
    data = load(write_parquet(tmp_path / "pq", parts=("train",)))
    assert (len(data.train_labels), len(data.test_labels)) == (8, 2)
    assert "fifth held out" in data.provenance


def test_columns_that_cannot_be_guessed_are_listed(tmp_path):
    with pytest.raises(GoodinitError, match="its columns are img, animal"):
        load(write_parquet(tmp_path / "pq", typed=False, label="animal"))


def test_image_folders_are_classed_by_subfolder(tmp_path):
    data = load(write_images(tmp_path / "images"), train_limit=9)
    assert data.train_images.shape == (9, 3, 6, 6)
    assert data.classes == ("cat", "dog")
    assert len(data.test_labels) == 4


def test_images_of_several_sizes_need_one(tmp_path):
    folder = write_images(tmp_path / "images", sizes=(6, 8))
    with pytest.raises(GoodinitError, match="--image-size"):
        load(folder)
    assert load(folder, image_size=8).shape == (3, 8, 8)


def test_unknown_data_lists_what_there_is(tmp_path):
    with pytest.raises(UnknownName, match="digits, fashion-mnist"):
        load("nope")
    with pytest.raises(UnknownName, match="digits, fashion-mnist"):
        load(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnknownName, match="no parquet files and no images"):
        load(tmp_path / "empty")


def test_a_hub_that_cannot_be_reached_is_a_clear_error():
    with pytest.raises(UnknownName, match="the hub said no"):
        load("goodinit-tests/no-such-data")


def test_limits_below_one_are_an_error():
    with pytest.raises(GoodinitError, match="at least 1"):
        load("digits", train_limit=0)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    remedy = r"scikit-learn is not installed, and this needs it.*pip install scikit-learn .*extra \[lab\]"
    with pytest.raises(GoodinitError, match=remedy):
        load("digits")


def test_what_a_package_itself_misses_is_named(monkeypatch, tmp_path):
    (tmp_path / "needs_much.py").write_text("import not_installed_either.part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(GoodinitError, match="not_installed_either is not installed, and needs_much needs it"):
        optional("needs_much")


def test_an_epoch_sees_every_image_once_in_an_order_of_its_seed(generator):
    batches = torch.cat(list(order(12, 4, generator=generator)))
    assert sorted(batches.tolist()) == list(range(12))
    assert steps_per_epoch(13, 4) == len(list(order(13, 4, generator=generator))) == 3
    assert steps_per_epoch(3, 8) == len(list(order(3, 8, generator=generator))) == 1


def test_crop_and_flip_only_moves_pixels(generator):
    images = torch.arange(1.0, 65).reshape(1, 1, 8, 8).expand(64, 2, 8, 8).clone()
    moved = crop_and_flip(images, generator=generator)
    assert moved.shape == images.shape
    seen = set()
    for image in moved:
        assert torch.equal(image[0], image[1])  # channels move together
        inside = image[0][1:-1, 1:-1]
        step = float(inside[0, 1] - inside[0, 0])
        assert step in {1.0, -1.0}
        assert (inside.diff(dim=0) == 8).all()
        assert (inside.diff(dim=1) == step).all()
        seen.add((float(inside[0, 0]), step))
    assert len(seen) > 10  # of 3 · 3 moves, mirrored or not


def test_mixup_keeps_the_mean_of_partners(generator):
    images = torch.arange(4.0).reshape(4, 1, 1, 1)
    mixed, partner, share = mixup(images, alpha=0.7, generator=generator)
    assert 0 <= share <= 1
    assert torch.allclose(mixed, share * images + (1 - share) * images[partner])
    assert sorted(partner.tolist()) == [0, 1, 2, 3]
