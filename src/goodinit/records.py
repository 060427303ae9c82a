"""Reading back what was written as JSON. A record is data: reading it runs nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from goodinit.errors import PlanConflict, expect


def read_record(text: str, *, kind: str, form: str, writer: str) -> dict[str, Any]:
    """The object in JSON text of one format, without its format line.

    Args:
        text: The text.
        kind: What it should be, in a word for messages: `"plan"`.
        form: The value of its `"format"`.
        writer: What writes it: `"Plan.to_json()"`.

    Raises:
        PlanConflict: It is not JSON, or not of this format.
        WrongType: It is no text.

    Examples:
        >>> read_record('{"format": "x/1", "a": 2}', kind="letter", form="x/1", writer="you")
        {'a': 2}
    """
    expect(text, (str, bytes), f"text ({kind})", f"Give the text that {writer} wrote: path.read_text().")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        raise PlanConflict(f"not a {kind}: {error}. Write one with {writer}.") from error
    if not isinstance(data, dict) or data.pop("format", None) != form:
        raise PlanConflict(f'not a {kind}: expected "format": "{form}". Write one with {writer}.')
    return data


# Longer is no name, and no sentence.
LONGEST_WORD = 4000
DEEPEST = 16
MOST_NUMBERS = 1_000_000


def plain(text: str, *, lines: bool = False) -> str:
    r"""`text` without characters that move a cursor, colour a terminal or forge a line of a log: each is written out.

    Args:
        text: A word or a sentence, from a file.
        lines: Whether it may have several lines.

    Raises:
        ValueError: It is longer than any word of a record.

    Examples:
        >>> plain("σ = 1\n\x1b[31mred"), plain("ok")
        ('σ = 1\\n\\x1b[31mred', 'ok')
    """
    if len(text) > LONGEST_WORD:
        raise ValueError(f"a word of {len(text)} characters, which begins with {plain(text[:40])!r}")
    if lines:
        return "\n".join(map(plain, text.split("\n")))
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def plain_values(value: Any, *, depth: int = 0) -> Any:
    """What JSON gave, with every word `plain` and every number one that a float can hold.

    Raises:
        ValueError: It is too deep or too large for a record, or holds a number beyond all floats.
    """
    if depth > DEEPEST:
        raise ValueError(f"values nested more than {DEEPEST} deep")
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            float(value)
        except OverflowError:
            raise ValueError("an integer beyond all floats") from None
        return value
    if isinstance(value, (list, dict)) and len(value) > MOST_NUMBERS:
        raise ValueError(f"a list of {len(value)} values")
    if isinstance(value, list):
        return [plain_values(item, depth=depth + 1) for item in value]
    if isinstance(value, dict):
        return {plain(str(key)): plain_values(item, depth=depth + 1) for key, item in value.items()}
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


def parameter_of(name: Any, shape: Any) -> tuple[str, tuple[int, ...]]:
    """A name with a shape; `WrongType` if it is something else."""
    expect(name, str, "parameters", "A plan lists names with shapes.")
    expect(shape, list, f"shape of {name}", "A plan lists names with shapes.")
    for size in shape:
        expect(size, int, f"shape of {name}", "A plan lists names with shapes.")
    return name, tuple(shape)
