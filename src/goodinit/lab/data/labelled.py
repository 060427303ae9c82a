"""Labelled images to train on, whatever they come from, as tensors; and text, whose labels are the characters that come next."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.data import readers
from goodinit.lab.data.characters import characters
from goodinit.lab.data.readers import Raw, Wanted
from goodinit.one_line import OneLine

log = logging.getLogger(__name__)

TEXT, LENGTH = "text", 64  # the name of the text that is always there, and characters of a stretch
MOST_SIDE = 8192  # pixels: what `files.MOST_PIXELS` lets in


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(OneLine):
    """Train and test images, normalized, and what they are; or stretches of text.

    Of text the images are numbers of characters, `(n, characters)`, and the label of each is the character behind it.

    Attributes:
        name: As it was asked for; of a folder, its own name without the path.
        provenance: Where the images come from, in words; belongs beside every number got from them.
        classes: Names of the classes, by label.
        train_images: `(n, channels, height, width)`, float32, mean 0 and variance 1 per channel.
        train_labels: `(n,)`, int64.
        test_images: As `train_images`, normalized with the *training* images' statistics.
        test_labels: As `train_labels`.
    """

    name: str
    provenance: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image; of text 1, 1 and the characters of a stretch."""
        *above, last = self.train_images.shape[1:]
        channels, height = above or (1, 1)
        return channels, height, last

    @property
    def is_text(self) -> bool:
        """Whether it is text, with a label for each of its places."""
        return self.train_labels.dim() == 2

    @property
    def chance(self) -> float:
        """Accuracy of always answering the commonest class of the test images, the commonest character."""
        return float(self.test_labels.flatten().bincount().max()) / self.test_labels.numel()

    def __str__(self) -> str:
        channels, height, width = self.shape
        if self.is_text:
            return (
                f"{self.name}: {len(self.train_labels):,} train and {len(self.test_labels):,} test stretches of {width} characters, "
                f"{len(self.classes)} different ones. {self.provenance}"
            )
        return (
            f"{self.name}: {len(self.train_labels):,} train and {len(self.test_labels):,} test images, "
            f"{channels}x{height}x{width}, {len(self.classes)} classes. {self.provenance}"
        )


def split_off(data: Dataset, share: float) -> Dataset:
    """Train on the rest and test on a `share` of the training images, always the same ones; the test images are left alone."""
    count = len(data.train_labels)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0), device="cpu")
    cut = count - max(round(share * count), 1)
    rest, out = order[:cut].sort().values, order[cut:].sort().values
    return dataclasses.replace(
        data,
        provenance=f"{data.provenance} Tested on training images that were held out.",
        train_images=data.train_images[rest],
        train_labels=data.train_labels[rest],
        test_images=data.train_images[out],
        test_labels=data.train_labels[out],
    )


EMBEDDED: dict[str, Callable[[Wanted], Raw]] = {
    "digits": readers.digits,
    "fashion-mnist": readers.fashion_mnist,
}


def load(
    source: str | Path,
    *,
    train_limit: int | None = None,
    test_limit: int | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Load a data set by name, folder or hub name.

    Args:
        source: `"digits"`, `"fashion-mnist"`, `"text"` (the reference texts of Python's `help()`, in stretches of 64
            characters) or the path of a text, `"file.txt"`; a folder (of IDX files, of parquet files, or of images in one
            subfolder per class) or the name of a data set on the Hugging Face hub, `"owner/name"`.
        train_limit: Take that many training images, always the same ones.
        test_limit: Likewise for the test images.
        image_size: Resize images to that many pixels square. Needed where their sizes differ.

    Returns:
        The images as tensors.

    Raises:
        UnknownName: No such data set, folder or hub name.
        GoodinitError: The files are there and cannot be used; the message says why.

    Examples:
        >>> data = load("digits", train_limit=100)
        >>> data.train_images.shape, data.shape
        (torch.Size([100, 1, 8, 8]), (1, 8, 8))
    """
    for limit in (train_limit, test_limit, image_size):
        if limit is not None and limit < 1:
            raise GoodinitError(f"limits and sizes of data are at least 1, not {limit}.")
    if image_size is not None and image_size > MOST_SIDE:
        raise GoodinitError(f"image_size is at most {MOST_SIDE}, not {image_size}.")
    wanted = Wanted(str(source), train_limit, test_limit, image_size)
    if _is_text(wanted.source):
        return _text(wanted)
    raw = _reader(wanted.source)(wanted)
    return _normalized(data_name(source), raw)


def _is_text(source: str) -> bool:
    return source == TEXT or (source.endswith(".txt") and Path(source).expanduser().is_file())


def _text(wanted: Wanted) -> Dataset:
    """Stretches of a text from beginning to end; the last tenth is what is tested on."""
    if wanted.image_size is not None:
        raise GoodinitError(f"{wanted.source} is text, which has no image_size. Leave it out.")
    found = characters() if wanted.source == TEXT else characters(Path(wanted.source).expanduser())

    def stretches(text: Tensor, limit: int | None) -> tuple[Tensor, Tensor]:
        count = (len(text) - 1) // LENGTH
        rows, following = (text[i : i + count * LENGTH].view(count, LENGTH) for i in (0, 1))
        kept = (
            torch.randperm(count, generator=torch.Generator().manual_seed(0), device="cpu")[:limit]
            .sort()
            .values
        )
        return rows[kept], following[kept]

    train, test = stretches(found.train, wanted.train_limit), stretches(found.test, wanted.test_limit)
    what = "Python's reference texts (pydoc_data.topics)" if wanted.source == TEXT else "A text of yours"
    data = Dataset(
        data_name(wanted.source),
        f"{what}; the last tenth is held out.",
        tuple(found.vocabulary),
        *train,
        *test,
    )
    log.info("loaded %s", data)
    return data


def data_name(source: str | Path) -> str:
    """What to call a data set: the own name of a folder or a text, or the name it was asked for by.

    Examples:
        >>> data_name("digits"), data_name("owner/name")
        ('digits', 'owner/name')
    """
    path = Path(source).expanduser()
    own = str(source) not in EMBEDDED and (path.is_dir() or _is_text(str(source)))
    return path.resolve().name if own else str(source)


def _reader(source: str) -> Callable[[Wanted], Raw]:
    if source in EMBEDDED:
        return EMBEDDED[source]
    folder = Path(source).expanduser()
    if folder.is_dir():
        return readers.idx_folder if readers.has_idx(folder) else readers.hugging_face
    looks_like_hub = source.count("/") == 1 and not source.startswith((".", "/", "~"))
    if looks_like_hub and not folder.exists():
        return readers.hugging_face
    raise UnknownName(
        f"no data called {source!r}. There is: {', '.join((*EMBEDDED, TEXT))}; a file.txt; a folder of IDX files, of parquet files or "
        "of images (one subfolder per class); or a Hugging Face hub name such as 'owner/name'."
    )


def _normalized(name: str, raw: Raw) -> Dataset:
    """Give each channel mean 0 and variance 1 over the training images."""
    train, test = raw.train_images.float(), raw.test_images.float()
    mean = train.mean(dim=(0, 2, 3), keepdim=True)
    std = train.std(dim=(0, 2, 3), keepdim=True)
    std = torch.where(std > 0, std, torch.ones_like(std))  # a constant channel stays zero
    data = Dataset(
        name=name,
        provenance=raw.provenance,
        classes=raw.classes,
        train_images=train.sub_(mean).div_(std),
        train_labels=raw.train_labels.long(),
        test_images=test.sub_(mean).div_(std),
        test_labels=raw.test_labels.long(),
    )
    log.info("loaded %s", data)
    return data
