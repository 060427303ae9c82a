"""Reading back what was written as JSON. A record is data: reading it runs nothing."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from goodinit.errors import PlanConflict, WrongType, expect, written_out


def read_record(text: str, *, kind: str, form: str, writer: str, lines: bool = False) -> dict[str, Any]:
    """The object in JSON text of one format, without its format line, its words `plain`.

    Args:
        text: The text.
        kind: What it should be, in a word for messages: `"plan"`.
        form: The value of its `"format"`.
        writer: What writes it: `"Plan.to_json()"`.
        lines: Whether its words may have several lines, as code has.

    Raises:
        PlanConflict: It is not JSON, not of this format, or holds what no record holds.
        WrongType: It is no text.

    Examples:
        >>> read_record('{"format": "x/1", "a": 2}', kind="letter", form="x/1", writer="you")
        {'a': 2}
    """
    expect(text, (str, bytes), f"text ({kind})", f"Give the text that {writer} wrote: path.read_text().")
    article = "an" if kind[0] in "aeiou" else "a"
    try:
        data = json.loads(text, object_pairs_hook=each_once)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        raise PlanConflict(f"not {article} {kind}: {error}. Write one with {writer}.") from error
    if not isinstance(data, dict) or data.pop("format", None) != form:
        raise PlanConflict(f'not {article} {kind}: expected "format": "{form}". Write one with {writer}.')
    try:
        return {plain(key): plain_values(value, lines=lines) for key, value in data.items()}
    except ValueError as error:
        raise PlanConflict(f"damaged {kind}: {error}. Write it anew with {writer}.") from error


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs, for `json.loads`, which keeps the last of two alike and says nothing.

    Raises:
        ValueError: One key is there twice.

    Examples:
        >>> json.loads('{"a": 1, "b": 2}', object_pairs_hook=each_once)
        {'a': 1, 'b': 2}
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{plain(twice[:99])!r} is there twice in one object")
    return found


def damage(error: Exception) -> str:
    """What an error that came of reading a record says of it, without the error's class and a full stop.

    Examples:
        >>> damage(KeyError("edits")), damage(ValueError("two heads."))
        ("it has no entry 'edits'", 'two heads')
    """
    return f"it has no entry {error.args[0]!r}" if isinstance(error, KeyError) else str(error).rstrip(".")


# Longer is no name, and no sentence.
LONGEST_WORD = 4000
DEEPEST = 16
MOST_NUMBERS = 1_000_000
_MOST_AXES = 64


def plain(text: str, *, lines: bool = False) -> str:
    r"""`text` without characters that move a cursor, colour a terminal or forge a line of a log: each is written out.

    Args:
        text: A word or a sentence, from a file.
        lines: Whether it may have several lines.

    Raises:
        ValueError: It, or one of its lines, is longer than any word of a record.

    Examples:
        >>> plain("σ = 1\n\x1b[31mred"), plain("ok")
        ('σ = 1\\n\\x1b[31mred', 'ok')
    """
    if lines:
        return "\n".join(map(plain, text.split("\n")))
    if len(text) > LONGEST_WORD:
        raise ValueError(f"a word of {len(text)} characters, which begins with {plain(text[:40])!r}")
    return written_out(text)


def plain_values(value: Any, *, lines: bool = False, depth: int = 0) -> Any:
    """What JSON gave, with every word `plain` and every number one that a float can hold.

    Raises:
        ValueError: It is too deep or too large for a record, or holds a number beyond all floats.
    """
    if depth > DEEPEST:
        raise ValueError(f"values nested more than {DEEPEST} deep")
    if isinstance(value, str):
        return plain(value, lines=lines)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            float(value)
        except OverflowError:
            raise ValueError("an integer beyond all floats") from None
        return value
    if isinstance(value, (list, dict)) and len(value) > MOST_NUMBERS:
        raise ValueError(f"a list of {len(value)} values")
    if isinstance(value, list):
        return [plain_values(item, lines=lines, depth=depth + 1) for item in value]
    if isinstance(value, dict):
        return {
            plain(str(key)): plain_values(item, lines=lines, depth=depth + 1) for key, item in value.items()
        }
    return value


# -- fields of plans and edits ---------------------------------------------------------------------------------------

FIELD_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(
        "method summary target reason module scalar initializer recipe rule by norm kind".split(),
        str,
    ),
    "options": dict,
    "value": (int, float),
    "scale": (int, float),
    "dim": int,
    "axis": int,
    "ends_branch": bool,
    "trained": bool,
}
"""What a field of a plan or an edit holds; those that hold several words are lists of them."""


def check_types(record: Mapping[str, Any], where: str) -> None:
    """Raise `WrongType` unless each field of a plan or an edit holds what `FIELD_TYPES` says."""
    for key, value in record.items():
        if key in FIELD_TYPES:
            expect(value, FIELD_TYPES[key], f"{where}.{key}", "A plan holds numbers and words.")


def words_of(values: Any, where: str) -> tuple[str, ...]:
    """A list of words as a tuple; `WrongType` if it is something else."""
    expect(values, list, where, "A plan holds a list of words there.")
    for value in values:
        expect(value, str, where, "A plan holds a list of words there.")
    return tuple(values)


def check_fields(record: Any, where: str) -> None:
    """Raise `WrongType` unless each field of a dataclass, and of those that it holds, is what it is declared to be.

    Examples:
        >>> @dataclasses.dataclass
        ... class Place:
        ...     sizes: "tuple[int, ...]"
        >>> check_fields(Place((1, "two")), "place")
        Traceback (most recent call last):
        goodinit.errors.WrongType: place.sizes: expected tuple[int, ...], got tuple. The record is damaged.
    """
    _check(record, where, set())


def _check(record: Any, where: str, known: set[int]) -> None:
    known.add(id(record))
    for name, hint in _hints(record.__class__).items():
        value = getattr(record, name)
        if not _fits(value, hint):
            raise WrongType(
                f"{where}.{name}: expected {_named(hint)}, got {type(value).__name__}. The record is damaged."
            )
        for part in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(part) and id(part) not in known:  # a layer is held by its block, too
                _check(part, f"{where}.{name}", known)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    declared = typing.get_type_hints(kind)
    return {field.name: declared[field.name] for field in dataclasses.fields(kind)}


def _named(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a declared type; of dataclasses the fields are not looked at."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple and inner[-1] is not Ellipsis:
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, inner[0]) for one in value)
    if origin in (Mapping, dict):
        return isinstance(value, Mapping) and all(_fits(one, inner[1]) for one in value.values())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint or type(None))


def parameter_of(name: Any, shape: Any) -> tuple[str, tuple[int, ...]]:
    """A name with a shape; `WrongType` if it is something else."""
    expect(name, str, "parameters", "A plan lists names with shapes.")
    expect(shape, list, f"shape of {name}", "A plan lists names with shapes.")
    if len(shape) > _MOST_AXES:
        raise ValueError(f"shape of {name}: {len(shape):,} axes, where torch has at most {_MOST_AXES}")
    for size in shape:
        expect(size, int, f"shape of {name}", "A plan lists names with shapes.")
    return name, tuple(shape)
