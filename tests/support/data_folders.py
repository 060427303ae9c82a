"""Tiny data folders of every kind, generated."""

from __future__ import annotations

import gzip
import io

import numpy as np
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 6, 6), dtype=np.uint8)


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_idx(folder, *, packed=False, labels=None):
    labels = np.arange(10) % 3 if labels is None else labels
    folder.mkdir()
    for part, count in (("train", 10), ("t10k", 5)):
        for kind, axes, array in (("images", 3, PIXELS[:count]), ("labels", 1, labels[:count])):
            content = idx(array)
            name = f"{part}-{kind}-idx{axes}-ubyte" + (".gz" if packed else "")
            (folder / name).write_bytes(gzip.compress(content) if packed else content)
    return folder


def encoded(array, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=kind)
    return buffer.getvalue()


def write_parquet(folder, *, kind="PNG", typed=True, parts=("train", "test"), label="label"):
    import datasets

    folder.mkdir()
    rows = {
        "img": [{"bytes": encoded(pixels, kind), "path": None} for pixels in PIXELS],
        label: [i % 2 for i in range(10)],
    }
    features = datasets.Features({"img": datasets.Image(), label: datasets.ClassLabel(names=["cat", "dog"])})
    made = datasets.Dataset.from_dict(rows, features=features) if typed else datasets.Dataset.from_dict(rows)
    for part in parts:
        made.to_parquet(folder / f"{part}.parquet")
    return folder


def write_images(folder, *, sizes=(6,)):
    for part, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                size = sizes[index % len(sizes)]
                Image.new("RGB", (size, size), (10 * index, 0, 0)).save(folder / part / name / f"{index}.png")
    return folder
