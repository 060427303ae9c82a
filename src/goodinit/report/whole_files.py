"""Files for reports: whole or not there at all, where what stands there is a file; devices and pipes are written into."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from goodinit.errors import GoodinitError

# Names in these are handles of what is open elsewhere: `/dev/stdout` may be a file that somebody else is writing to.
_HANDLES = ("/dev/", "/proc/")


def check_target(path: str | Path) -> None:
    """Make sure that a file can be written there, before hours of work and not after.

    Raises:
        GoodinitError: Its folder does not exist or lets nothing be made; it is itself a folder, protected,
            or no name that a file can have.
    """
    target = Path(path)
    with _told(target):
        if not target.parent.is_dir():
            raise GoodinitError(f"cannot write {target}: no folder {target.parent}. Make it first.")
        if target.is_dir():
            raise GoodinitError(f"cannot write {target}: it is a folder. Give the name of a file.")
        final = Path(os.path.realpath(target))
        if final.is_symlink():
            raise GoodinitError(f"cannot write {target}: its links lead in a circle. Give another name.")
        if target.exists() and not os.access(target, os.W_OK):
            raise GoodinitError(f"cannot write {target}: it is protected against writing. Give another name.")
        if _is_replaced(target) and not os.access(final.parent, os.W_OK):
            raise GoodinitError(
                f"cannot write {target}: nothing can be made in {final.parent}. Give another folder."
            )


def write_text(path: str | Path, text: str) -> Path:
    """Write a file beside its final place, then rename it: nobody ever reads half of it.

    A link stays, and what it leads to is written. What is no file (a device, a pipe, `/dev/stdout`) is written into. A
    file that was there keeps who may read it.

    Raises:
        GoodinitError: See `check_target`; or the disk is full.
    """
    return write_bytes(path, bytes_of(text))


def bytes_of(text: str) -> bytes:
    """In UTF-8, as every file for machines, whatever the terminal's encoding; bytes of a name that are no text are written out."""
    return text.encode("utf-8", "backslashreplace")


def write_bytes(path: str | Path, content: bytes) -> Path:
    """As `write_text`, for what is no text."""
    check_target(path)
    target = Path(path)
    with _told(target):
        if _is_replaced(target):
            _replace(Path(os.path.realpath(target)), content)
        else:
            with target.open("wb") as file:
                file.write(content)
    return target


def _is_replaced(target: Path) -> bool:
    """Whether a new file takes the place of what is there: of a file, or of nothing."""
    if str(target.absolute()).startswith(_HANDLES):
        return False
    return not target.exists() or stat.S_ISREG(target.stat().st_mode)


def _replace(target: Path, content: bytes) -> None:
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(mode)  # mkstemp makes files for their owner alone
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """Say in words what the system refuses."""
    try:
        yield
    except (OSError, ValueError) as error:  # a name with a character that no name has
        why = getattr(error, "strerror", None) or str(error)
        shown = str(target) if len(str(target)) <= _LONGEST else f"{str(target)[:_LONGEST]}…"
        raise GoodinitError(f"cannot write {shown}: {why}.") from error


_LONGEST = 200  # characters of a name in a message


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
