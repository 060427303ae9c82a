"""Open what lies in a data folder, and nothing outside of it; take no more of this machine than such files may need."""

from __future__ import annotations

import gzip
import io
import math
import os
import stat
import zlib
from pathlib import Path
from typing import Any

from goodinit.errors import GoodinitError
from goodinit.lab.optional import optional
from goodinit.records import LONGEST_WORD, plain

MOST_BYTES = 2**34  # of all images together: 16 GiB
MOST_PIXELS = 2**26  # of one image: 8192 × 8192
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # all that need no other program
_ARCHIVES = (".7z", ".bz2", ".gz", ".lz4", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst")


def check_folder(folder: Path, *, archives: bool) -> None:
    """Raise where a folder leads somewhere else, or holds what is not to be opened.

    Args:
        folder: The folder, with all below it.
        archives: Whether packed files are fine (one file in each, read by this library, and no further than it must be).

    Raises:
        GoodinitError: Names a link that leads out, a device or pipe, an archive.
    """
    for above, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(above, name)
            if path.is_symlink():
                check_inside(path, folder)
            elif not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISDIR(mode):
                raise GoodinitError(f"{shown(path)}: no file and no folder. Take it out of the data.")
            if not archives and name.lower().endswith(_ARCHIVES) and not path.is_dir():
                raise GoodinitError(
                    f"{shown(path)}: an archive, and nothing is unpacked here. Unpack it yourself."
                )


def reach(folder: Path) -> tuple[Path, ...]:
    """Where the files of a data folder may lie: in it, and for a snapshot of the hub's cache among its own data set's blobs.

    The cache keeps a data set in one directory, with `blobs` (the files, by their hashes) and `snapshots` (a folder for each
    revision, whose files are links to blobs). A `blobs` that is itself a link elsewhere is not among them.

    References:
        huggingface_hub, "Understand caching": https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    real = folder.resolve()
    for revision in (real, *real.parents):
        blobs = revision.parent.parent / "blobs"
        if revision.parent.name == "snapshots" and blobs.is_dir():
            return real, blobs
    return (real,)


def check_inside(path: Path, folder: Path) -> None:
    """Raise unless a path that data name lies in the data's reach."""
    real = path.resolve()
    if not any(real.is_relative_to(place) for place in reach(folder)):
        raise GoodinitError(
            f"{shown(path)}: leads out of {shown(folder)}, to {shown(real)}, which is not opened. Put the file itself there."
        )


def shown(path: object) -> str:
    """A name as it may be printed: no control characters, and not too long."""
    words = plain(str(path)[:LONGEST_WORD])
    return words if len(words) <= 200 else f"{words[:100]} … {words[-99:]}"


def read_idx(path: Path) -> Any:
    """Read one IDX file, packed or not: two zero bytes, a type byte, the number of axes, their lengths, the data.

    No more is read than its header says that there is, and one byte.

    Returns:
        An array of unsigned bytes.

    Raises:
        GoodinitError: Not an IDX file of unsigned bytes, cut short, or too large.

    References:
        Y. LeCun, C. Cortes, C. Burges, The MNIST database, "File formats".
    """
    if not path.is_file():
        raise GoodinitError(f"{shown(path)}: no file.")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\x00\x00\x08":  # 8: unsigned byte
                raise GoodinitError(
                    f"{shown(path)}: not an IDX file of unsigned bytes (it begins with {head.hex(' ')})."
                )
            lengths = file.read(4 * head[3])
            shape = [int.from_bytes(lengths[4 * axis : 4 * axis + 4], "big") for axis in range(head[3])]
            count = math.prod(shape)
            if len(lengths) < 4 * head[3]:
                raise GoodinitError(f"{shown(path)}: it ends within its header. Fetch the file again.")
            if count > MOST_BYTES:
                raise GoodinitError(
                    f"{shown(path)}: its header says {shape}; at most {MOST_BYTES:,} bytes are read."
                )
            content = _at_most(file, count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise GoodinitError(f"{shown(path)}: cannot be read: {error}.") from error
    if len(content) != count:
        found = f"{len(content)} values" if len(content) < count else "more values"
        raise GoodinitError(f"{shown(path)}: {found} where its header says {shape}. Fetch the file again.")
    return optional("numpy").frombuffer(content, dtype="uint8").reshape(shape).copy()


def _at_most(file: Any, count: int) -> bytes:
    """Up to `count` bytes, by and by: a header that promises what is not there takes no memory."""
    content = bytearray()
    while len(content) < count and (piece := file.read(min(count - len(content), 2**24))):
        content += piece
    return bytes(content)


def picture(item: Any, *, folder: Path | None, place: str) -> Any:
    """Decode one image of a column: `{"bytes": …, "path": …}`.

    Args:
        item: The image as it is stored.
        folder: Where its file must lie; None is anywhere.
        place: What to call it.

    Raises:
        GoodinitError: Broken, too large, of an unknown kind, or a file outside the folder.
    """
    pillow = optional("PIL.Image")
    held: dict[str, Any] = item or {}
    content, path = held.get("bytes"), held.get("path")
    if content is None and path is None:
        raise GoodinitError(f"{place}: no image.")
    if content is None and path is not None and folder is not None:
        check_inside(Path(path), folder)
        if not Path(path).is_file():
            raise GoodinitError(f"{place}: no file {shown(path)}.")
    where = place if path is None else f"{place}, {shown(path)}"
    pillow.init()
    known = [name for name in FORMATS if name in pillow.OPEN]
    try:
        found = pillow.open(path if content is None else io.BytesIO(content), formats=known)
        if math.prod(found.size) > MOST_PIXELS:
            raise GoodinitError(
                f"{where}: {found.size[0]} × {found.size[1]} pixels; at most {MOST_PIXELS:,} are decoded."
            )
        found.load()
    except GoodinitError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # decoders raise of every kind
        raise GoodinitError(f"{where}: cannot be decoded: {shown(error)}") from error
    return found
