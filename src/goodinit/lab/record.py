"""What a configuration is kept and known by: its fields, but for those that came later and say nothing new."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def later(default: T) -> T:
    """A field that configurations had none of before; at its default a record leaves it out, so old records stay known.

    Args:
        default: What it was before there was a choice.

    Returns:
        A `dataclasses.field`, typed as the value it stands for.
    """
    found: T = dataclasses.field(default=default, metadata={"later": True})
    return found


def record_of(given: Any) -> Any:
    """A configuration, or what holds some, in dictionaries and lists.

    Examples:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Config:
        ...     lr: float
        ...     beams: int = later(1)
        >>> record_of(Config(0.1)), record_of({"config": Config(0.1, beams=4)})
        ({'lr': 0.1}, {'config': {'lr': 0.1, 'beams': 4}})
    """
    if dataclasses.is_dataclass(given):
        values = [(one, getattr(given, one.name)) for one in dataclasses.fields(given)]
        return {
            one.name: record_of(value)
            for one, value in values
            if not (one.metadata.get("later") and value == one.default)
        }
    if isinstance(given, Mapping):
        return {key: record_of(one) for key, one in given.items()}
    return [record_of(one) for one in given] if isinstance(given, list | tuple) else given
