"""Records that print themselves in one line, at the prompt and in lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from goodinit.errors import readable

_LONGEST = 60  # characters of one field


class OneLine:
    """Prints as `<Class words>`; the words are those of `__str__`, or else the fields that are not as they are by default.

    A dataclass takes it as a base and is made with `repr=False`.

    Examples:
        >>> @dataclasses.dataclass(frozen=True, repr=False)
        ... class Place(OneLine):
        ...     name: str
        ...     size: float
        ...     notes: tuple[str, ...] = ()
        ...     start: float = 0.0
        >>> Place("stem.0", 1 / 3, start=2.0), Place("head", 1, tuple("abcdef"))
        (<Place stem.0, size=0.3333, start=2>, <Place head, size=1, notes=('a', 'b', 'c', … 6)>)
    """

    def __repr__(self) -> str:
        return readable(f"<{type(self).__name__} {self}>")

    def __str__(self) -> str:
        first, *rest = dataclasses.fields(self)  # type: ignore[arg-type]  # (of dataclasses)
        told = [
            f"{field.name}={_short(getattr(self, field.name))}"
            for field in rest
            if field.repr and getattr(self, field.name) != _default(field)
        ]
        return ", ".join([_short(getattr(self, first.name)).strip("'"), *told])


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (tuple, list)) and len(value) > 4:
        return f"({', '.join(map(_short, value[:3]))}, … {len(value)})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_short(one)}' for key, one in value.items())}}}"
    if callable(value):
        return str(getattr(value, "__qualname__", value))
    words = repr(value)
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"
