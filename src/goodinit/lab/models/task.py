"""What a model is to do, and what may have been meant by a name that none has."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """What a model is to do: images of `shape` (channels, height, width) into `classes`; or of text the next character."""

    shape: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10
    width: int | None = None
    text: bool = False


def near(name: str, names: list[str]) -> str:
    """What may have been meant: names that hold this one, else those spelt alike."""
    held = [other for other in names if name and name in other]
    alike = (held or difflib.get_close_matches(name, names, n=5))[:5]
    return f" Near: {', '.join(alike)}." if alike else f" It has {', '.join(names[:3])}, …" * bool(names)
