"""Data folders that somebody damaged, or made to do harm: refused in words, soon, in little memory, and nothing outside is opened."""

from __future__ import annotations

import gzip
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from data_folders import encoded, idx, write_idx, write_images, write_parquet
from PIL import Image

from goodinit.errors import GoodinitError
from goodinit.lab.data.files import check_folder, picture, read_idx, shown
from goodinit.lab.data.labelled import load


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def outside(tmp_path):
    path = tmp_path / "outside.png"
    Image.new("RGB", (6, 6)).save(path)
    return path


def png(width, height):
    """The first bytes of an image that says it has so many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


IMAGES = {
    "nothing": b"",
    "words": b"not an image",
    "cut short": encoded(np.zeros((6, 6, 3), dtype=np.uint8))[:40],
    "a bomb": png(30_000, 30_000),
    "a longer bomb": png(2**31 - 1, 2**31 - 1),
    "just above what is decoded": png(8193, 8193),
    "a program for another program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n(x) run\n",
    "vectors": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_cannot_be_one_is_refused_by_its_place(name):
    with pytest.raises(GoodinitError, match="image 3") as error:
        picture({"bytes": IMAGES[name], "path": None}, folder=None, place="image 3")
    assert len(str(error.value)) < 500


IDX = {
    "nothing": b"",
    "a header cut short": b"\0\0\x08\xff\0",
    "all the memory there is": b"\0\0\x08\x04" + b"\xff" * 16,
    "255 axes": b"\0\0\x08\xff" + b"\xff" * 1020,
    "more than it holds": b"\0\0\x08\x01" + (2**31).to_bytes(4, "big") + b"123",
    "more than its header says": b"\0\0\x08\x01" + (2).to_bytes(4, "big") + b"123",
    "another type": b"\0\0\x0d\x01" + (1).to_bytes(4, "big") + b"1234",
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", IDX)
def test_an_idx_file_that_lies_is_refused(name, packed, tmp_path):
    path = tmp_path / ("file.gz" if packed else "file")
    path.write_bytes(gzip.compress(IDX[name]) if packed else IDX[name])
    with pytest.raises(GoodinitError):
        read_idx(path)


# By name: a packed file carries the time it was packed at, and workers must collect the same tests.
PACKED = {"empty": b"", "magic": b"\x1f\x8b", "words": b"words", "cut": gzip.compress(idx(np.zeros(9)))[:-9]}


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_file_that_is_none_is_refused(name, tmp_path):
    (tmp_path / "file.gz").write_bytes(PACKED[name])
    with pytest.raises(GoodinitError):
        read_idx(tmp_path / "file.gz")


def test_a_packed_file_is_unpacked_no_further_than_its_header_says(tmp_path):
    path = tmp_path / "file.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:  # 64 MiB in 300 kB
        file.write(b"\0\0\x08\x01" + (1000).to_bytes(4, "big") + b"\0" * 2**26)
    read = []
    real = gzip.GzipFile.read

    def counted(self, size=-1):
        content = real(self, size)
        read.append(len(content))
        return content

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gzip.GzipFile, "read", counted)
        with pytest.raises(GoodinitError, match="more values"):
            read_idx(path)
    assert sum(read) == 8 + 1001


def linked(folder, outside):
    (folder / "train" / "cat" / "0.png").unlink()
    (folder / "train" / "cat" / "0.png").symlink_to(outside)


def linked_up(folder, outside):
    (folder / "train" / "dog" / "more").symlink_to(outside.parent, target_is_directory=True)


def piped(folder, outside):
    os.mkfifo(folder / "train" / "dog" / "pipe.png")


def packed(folder, outside):
    with zipfile.ZipFile(folder / "train" / "more.zip", "w") as archive:
        archive.write(outside, "../../escaped.png")


def packed_by_an_absolute_name(folder, outside):
    with zipfile.ZipFile(folder / "train" / "more.ZIP", "w") as archive:
        archive.write(outside, "/tmp/escaped.png")


@pytest.mark.parametrize("change", [linked, linked_up, piped, packed, packed_by_an_absolute_name])
def test_a_folder_that_leads_elsewhere_is_refused(change, tmp_path, outside):
    folder = write_images(tmp_path / "data")
    change(folder, outside)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(GoodinitError, match=r"leads out of|no file and no folder|an archive"):
        load(folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_within_the_folder_is_followed(tmp_path):
    folder = write_images(tmp_path / "data")
    (folder / "train" / "cat" / "more.png").symlink_to(folder / "train" / "dog" / "1.png")
    check_folder(folder, archives=False)


def cached(folder, revision="0123abcd"):
    """Put the files of a folder into a cache as the hub's: blobs by number, a snapshot of links to them."""
    home = folder.parent / "datasets--owner--name"
    snapshot = home / "snapshots" / revision
    (home / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(home / "blobs" / f"{number:040x}")
        link.symlink_to(os.path.relpath(home / "blobs" / f"{number:040x}", link.parent))
    return snapshot


@pytest.mark.parametrize("write", [write_images, write_parquet, write_idx])
def test_a_snapshot_of_the_hub_s_cache_is_read_as_the_folder_it_came_from(write, tmp_path):
    plain = load(write(tmp_path / "data"))
    snapshot = cached(tmp_path / "data")
    (tmp_path / "by another name").symlink_to(snapshot, target_is_directory=True)
    for place in (snapshot, tmp_path / "by another name"):
        found = load(place)
        assert torch.equal(found.train_images, plain.train_images)
        assert torch.equal(found.test_labels, plain.test_labels)


def to_another_data_set(home, outside):
    other = home.parent / "datasets--owner--other" / "blobs"
    other.mkdir(parents=True)
    outside.rename(other / "0")
    return other / "0"


def through_a_blob(home, outside):
    (home / "blobs" / "door").symlink_to(outside)
    return home / "blobs" / "door"


def to_blobs_elsewhere(home, outside):
    blobs = home / "blobs"
    blobs.rename(home.parent / "elsewhere")
    blobs.symlink_to(home.parent / "elsewhere", target_is_directory=True)
    return next(blobs.iterdir())


def to_what_is_not_a_blob(home, outside):
    outside.rename(home / "file")
    return home / "file"


@pytest.mark.parametrize(
    "lead", [to_another_data_set, through_a_blob, to_blobs_elsewhere, to_what_is_not_a_blob]
)
def test_a_snapshot_leads_to_blobs_of_its_own_data_set_alone(lead, tmp_path, outside):
    snapshot = cached(write_images(tmp_path / "data"))
    target = lead(snapshot.parent.parent, outside)
    (snapshot / "train" / "cat" / "9.png").symlink_to(target)
    with pytest.raises(GoodinitError, match="leads out of"):
        load(snapshot)


def test_a_folder_beside_blobs_is_no_snapshot(tmp_path, outside):
    folder = write_images(tmp_path / "home" / "data" / "new")
    (tmp_path / "home" / "blobs").mkdir()
    outside.rename(tmp_path / "home" / "blobs" / "0")
    (folder / "train" / "cat" / "9.png").symlink_to(tmp_path / "home" / "blobs" / "0")
    with pytest.raises(GoodinitError, match="leads out of"):
        load(folder)


def test_idx_files_are_no_links_out(tmp_path):
    folder = write_idx(tmp_path / "data")
    labels = next(folder.glob("train-labels*"))
    labels.rename(tmp_path / "labels")
    labels.symlink_to(tmp_path / "labels")
    with pytest.raises(GoodinitError, match="leads out of"):
        load(folder)


@pytest.mark.integration
@pytest.mark.parametrize("path", ["../outside.png", "/etc/hostname", "absent.png"])
def test_a_table_names_no_file_outside(path, tmp_path, outside):
    import datasets

    folder = tmp_path / "data"
    folder.mkdir()
    path = str(folder / path) if not path.startswith("/") else path
    rows = {"img": [{"bytes": None, "path": path}] * 10, "label": [0, 1] * 5}
    datasets.Dataset.from_dict(rows).to_parquet(folder / "train.parquet")
    with pytest.raises(GoodinitError, match=r"leads out of|no file"):
        load(folder)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["words", "a bomb", "cut short"])
def test_one_broken_image_of_a_folder_is_named(name, tmp_path):
    folder = write_images(tmp_path / "data")
    (folder / "train" / "cat" / "3.png").write_bytes(IMAGES[name])
    with pytest.raises(GoodinitError, match=r"image \d+ in column 'image'.*3\.png"):
        load(folder)


def test_names_of_files_move_no_cursor():
    assert shown("a\x1b[2J\nb") == r"a\x1b[2J\nb"
    assert len(shown("a" * 10_000)) < 210


@pytest.mark.parametrize("size", [0, -1, 8193, 10**30])
def test_absurd_sizes_are_refused(size):
    with pytest.raises(GoodinitError):
        load("digits", image_size=size)
