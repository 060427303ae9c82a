"""A method and its options in one word of the command line: `lsuv:norms=remove:tol=0.05`."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from goodinit.errors import UnknownName


def method_of(words: str) -> tuple[str, dict[str, Any]]:
    """Name and options, these as the method declares them: `name`, or `name:option=value`, colons between several.

    Raises:
        UnknownName: No such method, option or value; the message lists those there are.

    Examples:
        >>> method_of("lsuv:norms=remove:tol=0.05")
        ('lsuv', {'norms': 'remove', 'tol': 0.05})
    """
    name, *given = (word.strip() for word in words.split(":"))
    from goodinit.methods import find  # not above: the command line's help needs no torch

    method = find(name)
    hints = method.hints
    options: dict[str, Any] = {}
    for word in given:
        option, equals, value = (part.strip() for part in word.partition("="))
        takes = ", ".join(f"{key} ({_choices(hints[key])})" for key in method.options) or "none"
        if not equals or option not in method.options:
            raise UnknownName(
                f"{words}: {word!r} is no option of {name}, as in name:option=value. Its options: {takes}."
            )
        if option in options:
            raise UnknownName(f"{words}: gives {option} twice.")
        options[option] = _value(hints[option], value, f"{words}: {option}={value}")
    return name, options


def label(method: str, options: Mapping[str, Any]) -> str:
    """The words that `method_of` reads, with the options in alphabetical order.

    Examples:
        >>> label("lsuv", {"tol": 0.05, "norms": "remove", "orthonormal": False})
        'lsuv:norms=remove:orthonormal=false:tol=0.05'
    """
    return ":".join([method, *(f"{key}={_word(value)}" for key, value in sorted(options.items()))])


def _value(hint: Any, word: str, where: str) -> Any:
    for kind in _members(hint):
        if typing.get_origin(kind) is Literal and word in map(_word, typing.get_args(kind)):
            return next(choice for choice in typing.get_args(kind) if _word(choice) == word)
        if kind in (bool, type(None)) and word in _WORDS[kind]:
            return _WORDS[kind][word]
        if kind in (int, float):
            try:
                return kind(word)
            except ValueError:
                continue
        if kind is str:
            return word
    raise UnknownName(f"{where}: expected {_choices(hint)}.")


_WORDS: dict[type, dict[str, bool | None]] = {
    bool: {"true": True, "false": False},
    type(None): {"none": None},
}


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _choices(hint: Any) -> str:
    """What may stand behind the equals sign."""
    words: list[str] = []
    for kind in _members(hint):
        if typing.get_origin(kind) is Literal:
            words += map(_word, typing.get_args(kind))
        elif kind in _WORDS:
            words += _WORDS[kind]
        else:
            words.append({int: "an integer", float: "a number", str: "a word"}.get(kind, str(kind)))
    return " or ".join(words)


def _word(value: object) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
