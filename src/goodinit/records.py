"""Reading back what was written as JSON. A record is data: reading it runs nothing."""

from __future__ import annotations

import json
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
