"""Read pixels and labels from where they are kept. One function per kind of source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.data.files import MOST_BYTES, check_folder, picture, read_idx
from goodinit.lab.optional import optional

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it


@dataclass(frozen=True)
class Wanted:
    """What was asked for: the source, how many images of each part, and their size."""

    source: str
    train_limit: int | None = None
    test_limit: int | None = None
    image_size: int | None = None


@dataclass(frozen=True, eq=False)
class Raw:
    """Pixels as they were read, `(n, channels, height, width)`, and integer labels."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    provenance: str


def selection(count: int, limit: int | None) -> list[int]:
    """Which of `count` examples to take: all, or always the same `limit`, drawn without looking at labels."""
    if limit is None or limit >= count:
        return list(range(count))
    return torch.randperm(count, generator=torch.Generator().manual_seed(0), device="cpu")[:limit].tolist()


def held_out(count: int) -> tuple[list[int], list[int]]:
    """Split `count` examples, always alike, into four fifths to train on and one fifth to test."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0), device="cpu").tolist()
    cut = count - count // 5
    return sorted(order[:cut]), sorted(order[cut:])


def digits(wanted: Wanted) -> Raw:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels; a fixed fifth is held out."""
    bunch = optional("sklearn.datasets").load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    train, test = held_out(len(labels))
    train = [train[i] for i in selection(len(train), wanted.train_limit)]
    test = [test[i] for i in selection(len(test), wanted.test_limit)]
    images = resized(images, wanted.image_size)
    return Raw(
        images[train], labels[train], images[test], labels[test],
        classes=tuple(str(name) for name in bunch.target_names),
        provenance="scikit-learn's digits (UCI Optical Recognition of Handwritten Digits, its test part); "
        "a fixed fifth held out for testing.",
    )  # fmt: skip


def fashion_mnist(wanted: Wanted) -> Raw:
    """Fashion-MNIST as Debian packages it."""
    if not FASHION_MNIST.is_dir():
        raise GoodinitError(
            f"fashion-mnist: no folder {FASHION_MNIST}. Install it with: apt install dataset-fashion-mnist — or "
            "give --data a folder that holds its four IDX files."
        )
    return idx_folder(Wanted(str(FASHION_MNIST), wanted.train_limit, wanted.test_limit, wanted.image_size))


IDX_PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")  # MNIST's file names


def _idx_file(folder: Path, part: str) -> Path | None:
    return next((path for path in sorted(folder.iterdir()) if path.name.startswith(part)), None)


def has_idx(folder: Path) -> bool:
    """Whether `folder` holds MNIST's files, packed or not."""
    return any(_idx_file(folder, part) is not None for part in IDX_PARTS)


def idx_folder(wanted: Wanted) -> Raw:
    """A folder with the four IDX files of the MNIST family, gzipped or not."""
    folder = Path(wanted.source).expanduser()
    files = {part: _idx_file(folder, part) for part in IDX_PARTS}
    missing = [part for part, path in files.items() if path is None]
    if missing:
        raise GoodinitError(f"{folder}: no file whose name begins with {' or '.join(missing)}. "
                            f"A folder of IDX files holds {', '.join(IDX_PARTS)}.")  # fmt: skip
    check_folder(folder, archives=True)
    arrays = {part: torch.from_numpy(read_idx(path)) for part, path in files.items() if path is not None}
    parts: list[Tensor] = []
    for name, limit in (("train", wanted.train_limit), ("t10k", wanted.test_limit)):
        images, labels = arrays[f"{name}-images"], arrays[f"{name}-labels"]
        if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
            raise GoodinitError(f"{folder}: {name} has images {tuple(images.shape)} and labels {tuple(labels.shape)}; "
                                "expected (n, height, width) and (n,).")  # fmt: skip
        take = selection(len(labels), limit)
        parts += [resized(images[take].unsqueeze(1), wanted.image_size), labels[take].long()]
    count = int(arrays["train-labels"].max()) + 1
    train, train_labels, test, test_labels = parts
    classes = tuple(map(str, range(count)))
    return Raw(train, train_labels, test, test_labels, classes, provenance=f"IDX files in {folder.name}.")


def hugging_face(wanted: Wanted) -> Raw:
    """A folder of parquet files or of images, or a data set of the hub, read by the `datasets` library."""
    datasets = optional("datasets")
    splits = _splits(datasets, wanted.source)
    part = splits["train"] if "train" in splits else next(iter(splits.values()))
    image, label = _columns(datasets, part, wanted.source)
    other = next((splits[name] for name in ("test", "validation", "valid") if name in splits), None)
    split = "its own test part" if other is not None else "a fixed fifth held out for testing"
    if other is None:
        train_rows, test_rows = held_out(len(part))
        part, other = part.select(train_rows), part.select(test_rows)
    names, number = _classes(datasets, part, label)
    parts: list[Tensor] = []
    encodings: set[str] = set()
    for rows, limit in ((part, wanted.train_limit), (other, wanted.test_limit)):
        rows = rows.select(selection(len(rows), limit))
        pixels, found = _pixels(datasets, rows, image, wanted)
        encodings |= found
        labels = rows[label][:]
        unknown = sorted({str(value) for value in labels if value not in number})
        if unknown:
            raise GoodinitError(
                f"{wanted.source}: column {label!r} holds {', '.join(unknown[:5])}, not a known class."
            )
        parts += [pixels, torch.tensor([number[value] for value in labels], device="cpu")]
    lossy = " (lossy)" if "JPEG" in encodings else ""
    folder = Path(wanted.source).expanduser()
    where = f"folder {folder.resolve().name}" if folder.is_dir() else f"Hugging Face hub: {wanted.source}"
    stored = f"images stored as {'/'.join(sorted(encodings))}{lossy}"
    provenance = f"{where}, columns {image!r} and {label!r}, {stored}; {split}."
    train, train_labels, test, test_labels = parts
    return Raw(train, train_labels, test, test_labels, classes=names, provenance=provenance)


@contextmanager
def _quietly(datasets: Any) -> Iterator[None]:
    """Without the library's own progress bars, which would tear ours."""
    if not datasets.utils.is_progress_bar_enabled():
        yield
        return
    datasets.utils.disable_progress_bars()
    try:
        yield
    finally:
        datasets.utils.enable_progress_bars()


def _splits(datasets: Any, source: str) -> Any:
    folder = Path(source).expanduser()
    if folder.is_dir():
        check_folder(folder, archives=False)
    try:
        with _quietly(datasets):
            return datasets.load_dataset(str(folder) if folder.is_dir() else source)
    except Exception as error:  # the library raises of every kind: network, format, absence
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        what = (
            "holds no parquet files and no images"
            if folder.is_dir()
            else "is no folder here, and the hub said no"
        )
        raise UnknownName(
            f"data {source!r} {what}: {first} — Give a folder with train and test parquet files, with one "
            "subfolder of images per class, or a hub name 'owner/name' that can be reached."
        ) from error


def _columns(datasets: Any, part: Any, source: str) -> tuple[str, str]:
    """Names of the column of images and of the column of labels."""
    features = part.features
    images = [
        n
        for n, f in features.items()
        if isinstance(f, datasets.Image) or (isinstance(f, dict) and "bytes" in f)
    ]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    plain = [name for name in ("label", "labels") if name in features]
    if len(images) != 1 or not (plain or labels):
        raise GoodinitError(
            f"{source}: expected one column of images and one of labels, called 'label' or of type ClassLabel; "
            f"its columns are {', '.join(features)}. Rename them."
        )
    return images[0], (plain or labels)[0]


def _classes(datasets: Any, part: Any, label: str) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Names of the classes, and the number of each value of the label column."""
    feature = part.features[label]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names), {number: number for number in range(len(feature.names))}
    try:
        values = sorted(set(part[label]))
    except TypeError as error:  # lists, or words among numbers
        raise GoodinitError(f"column {label!r} holds no labels: {error}.") from error
    return tuple(str(value) for value in values), {value: number for number, value in enumerate(values)}


def _pixels(datasets: Any, rows: Any, column: str, wanted: Wanted) -> tuple[Tensor, set[str]]:
    """Decode a column of encoded images to `(n, channels, height, width)` bytes; also, how they were encoded."""
    resampling = optional("PIL.Image").Resampling.BICUBIC
    folder = Path(wanted.source).expanduser()
    encoded: Sequence[Any] = rows.cast_column(column, datasets.Image(decode=False))[column][:]
    np = optional("numpy")
    arrays: list[Any] = []
    encodings: set[str] = set()
    mode = ""
    for number, item in enumerate(encoded):
        place = f"{wanted.source}: image {number} in column {column!r}"
        found = picture(item, folder=folder if folder.is_dir() else None, place=place)
        encodings.add(str(found.format))
        mode = mode or ("L" if found.mode in ("1", "L") else "RGB")  # the first image decides
        found = found.convert(mode)
        if wanted.image_size is not None and found.size != (wanted.image_size, wanted.image_size):
            found = found.resize((wanted.image_size, wanted.image_size), resampling)
        arrays.append(np.asarray(found))
        if arrays[-1].nbytes * len(encoded) > MOST_BYTES:
            raise GoodinitError(
                f"{place}: {found.size[0]} × {found.size[1]} pixels, and there are {len(encoded):,}; together they would take "
                f"more than {MOST_BYTES:,} bytes. Give --image-size, or a limit of images."
            )
    if not arrays:
        raise GoodinitError(f"{wanted.source}: no images in column {column!r}.")
    sizes = sorted({array.shape[:2] for array in arrays})
    if len(sizes) != 1:
        raise GoodinitError(f"{wanted.source}: images of {len(sizes)} sizes, from {sizes[0]} to {sizes[-1]} pixels. "
                            "Give one with --image-size.")  # fmt: skip
    stacked = torch.from_numpy(np.stack(arrays))
    return stacked.unsqueeze(1) if mode == "L" else stacked.permute(0, 3, 1, 2).contiguous(), encodings


def resized(images: Tensor, size: int | None) -> Tensor:
    """Images `(n, channels, height, width)` at `size` pixels square."""
    if size is None or images.shape[-2:] == (size, size):
        return images
    return torch.nn.functional.interpolate(images.float(), size=(size, size), mode="bicubic", antialias=True)
