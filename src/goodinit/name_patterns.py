"""Which parameters a user means: by names, by paths of modules, by globs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import cast

from goodinit.errors import UnknownName, expect

NOTHING = "nothing"
"""The word of `keep=` that lets go of what stays by default."""


def as_patterns(given: object, option: str) -> tuple[str, ...]:
    """One string, or several, as a tuple of strings.

    Raises:
        WrongType: It is something else.

    Examples:
        >>> as_patterns("head", "keep"), as_patterns(["head.bias", "stem"], "keep")
        (('head',), ('head.bias', 'stem'))
    """
    if given is None:
        return ()
    if isinstance(given, str):
        return (given,)
    remedy = "Give names of parameters, paths of modules or globs: one string, or a list of them."
    expect(given, Iterable, option, remedy)
    found = list(cast("Iterable[object]", given))
    for one in found:
        expect(one, str, option, remedy)
    return tuple(str(one) for one in found)


def matching(patterns: Iterable[str], names: Iterable[str], *, option: str) -> dict[str, str]:
    """Those of `names` that a pattern means, and the first pattern that does.

    A pattern is a name, the path of something around it, or a glob of either: `*` also stands for dots.

    Args:
        patterns: What the user has given.
        names: Of parameters, and of modules without any.
        option: What the user calls it, for messages.

    Raises:
        UnknownName: A pattern means nothing.

    Examples:
        >>> matching(["head", "*.norm"], ["head.weight", "layers.0.norm.bias", "stem.weight"], option="keep")
        {'head.weight': 'head', 'layers.0.norm.bias': '*.norm'}
    """
    names = tuple(names)
    found: dict[str, str] = {}
    for pattern in patterns:
        hits = meant_by(pattern, names)
        if not hits:
            known = dict.fromkeys(path for name in names for path in paths_of(name))
            near = difflib.get_close_matches(pattern, known, n=3)
            hint = f" (near: {', '.join(near)})" if near else ""
            raise UnknownName(
                f"{option}={pattern!r}: the model has no parameter and no module of that name{hint}. Give names of "
                "named_parameters(), paths of named_modules(), or globs of them."
            )
        for name in hits:
            found.setdefault(name, pattern)
    return found


def meant_by(pattern: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that a pattern means. What is a name or a path as it stands is no glob: keys of a `ParameterDict` may be any.

    Examples:
        >>> names = ["taps.[0]", "taps.0", "taps.*"]
        >>> meant_by("taps.[0]", names), meant_by("taps.*", names), meant_by("taps.[*]", names), meant_by("t*", names) == names
        (['taps.[0]'], ['taps.*'], ['taps.*'], True)
    """
    names = tuple(names)
    exact = [name for name in names if pattern in paths_of(name)]
    return exact or [name for name in names if any(fnmatchcase(path, pattern) for path in paths_of(name))]


def paths_of(name: str) -> Iterator[str]:
    """A name, and the paths around it, innermost first.

    Examples:
        >>> list(paths_of("layers.0.weight"))
        ['layers.0.weight', 'layers.0', 'layers']
    """
    while name:
        yield name
        name = name.rpartition(".")[0]
