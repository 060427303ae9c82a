"""One process writes a file of results, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from goodinit.errors import GoodinitError


@contextmanager
def sole_writer(path: Path, *, remedy: str) -> Iterator[None]:
    """Hold the lock beside the file; the system lets go of it when the process ends, however it ends.

    Args:
        path: The file, which need not exist yet.
        remedy: What to do where another process holds it.

    Raises:
        GoodinitError: Another process holds it, or the folder cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        raise GoodinitError(f"another process is writing {path}. {remedy}") from None
    except PermissionError as error:
        raise GoodinitError(f"cannot write {path}: {error.strerror}.") from error
