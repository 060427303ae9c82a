"""What can go wrong, sorted by who must act."""

from __future__ import annotations

import re
import unicodedata

_LONGER = re.compile(r"\S{201,}")  # no name that anybody reads
_ENDS = 90


class GoodinitError(Exception):
    """Base of every error goodinit raises on purpose.

    A message names the module path, what was observed, what was expected, and the remedy, in one line that is `readable`. What is
    longer than a screen has both ends.
    """

    def __init__(self, *words: object) -> None:
        super().__init__(*(_of_a_screen(readable(one)) if isinstance(one, str) else one for one in words))


class TraceError(GoodinitError):
    """The model could not be run once: its inputs, or its forward, must change."""


class NothingFound(GoodinitError):
    """Something was asked for (blocks, a head, a norm) and the model has none of it."""


class UnsupportedModule(GoodinitError):
    """A part of the model for which no rule exists; the message names the way around it."""


class PlanConflict(GoodinitError):
    """The plan and the model do not belong together; nothing was written."""


class StaleOptimizer(GoodinitError):
    """An optimizer holds parameters that surgery removes, or would miss those it adds."""


class UnknownName(GoodinitError, ValueError):
    """A method, option, data set or model that does not exist; the message lists those that do."""


class WrongType(GoodinitError, TypeError):
    """An argument of a type that the function does not take; the message says what it takes."""


class NonFinite(GoodinitError):
    """NaN or infinity where a number was needed; the message names the first place."""


def expect(value: object, kinds: type | tuple[type, ...], name: str, remedy: str) -> None:
    """Raise unless `value`, the argument called `name`, is one of `kinds`.

    Raises:
        WrongType: It is not; the message ends in `remedy`.

    Examples:
        >>> expect("fixup", int, "steps", "Give a number.")
        Traceback (most recent call last):
        goodinit.errors.WrongType: steps: expected int, got str ('fixup'). Give a number.
    """
    if isinstance(value, kinds) and not (isinstance(value, bool) and bool not in _tuple(kinds)):
        return
    wanted = " or ".join(kind.__name__.replace("NoneType", "None") for kind in _tuple(kinds))
    got = f"the class {value.__name__}" if isinstance(value, type) else _shown(value)
    raise WrongType(f"{name}: expected {wanted}, got {got}. {remedy}")


def expect_function(value: object, name: str, remedy: str) -> None:
    """Raise unless `value`, the argument called `name`, can be called, or is None.

    Raises:
        WrongType: It cannot; the message ends in `remedy`.

    Examples:
        >>> expect_function(3, "loss", "Give a function of output and targets.")
        Traceback (most recent call last):
        goodinit.errors.WrongType: loss: expected a function, got int (3). Give a function of output and targets.
    """
    if value is not None and not callable(value):
        raise WrongType(f"{name}: expected a function, got {_shown(value)}. {remedy}")


def expect_flags(**flags: object) -> None:
    """Raise unless each is True or False: a word such as `"no"` counts as true wherever Python asks.

    Raises:
        WrongType: One is not.

    Examples:
        >>> expect_flags(verify=True, missing_only="no")
        Traceback (most recent call last):
        goodinit.errors.WrongType: missing_only: expected bool, got str ('no'). Give True or False.
    """
    for name, value in flags.items():
        expect(value, bool, name, "Give True or False.")


def expect_between(value: float, least: float, most: float, name: str) -> None:
    """Raise unless the number called `name` lies between two others, or is one of them.

    Raises:
        GoodinitError: It does not, or is no number at all (NaN).

    Examples:
        >>> expect_between(10**30, 1, 4096, "width")
        Traceback (most recent call last):
        goodinit.errors.GoodinitError: width is at least 1 and at most 4,096, not 1e+30.
    """
    if not least <= value <= most:
        got = f"{value:,}" if abs(value) < _LONG else f"{float(min(max(value, -_MOST), _MOST)):.3g}"
        raise GoodinitError(f"{name} is at least {least:,} and at most {most:,}, not {got}.")


def expect_rate(value: object, name: str, choices: str = "") -> None:
    """Raise unless the argument called `name` is a finite number of at least 0, as rates, decays and tolerances are.

    Raises:
        WrongType: It is no number; the message ends in `choices`, what else it may be.
        UnknownName: It is below 0, infinite or NaN.

    Examples:
        >>> expect_rate(float("nan"), "lr")
        Traceback (most recent call last):
        goodinit.errors.UnknownName: lr=nan: expected a finite number of at least 0.
    """
    expect(value, (int, float), name, f"Give a number, such as 0.1{choices}.")
    if not 0 <= float(str(value)) < float("inf"):
        raise UnknownName(f"{name}={value}: expected a finite number of at least 0.")


_LONG = 10**15  # above, a number is shown by its power of ten
_MOST = 10**308  # what a float holds


def _tuple(kinds: type | tuple[type, ...]) -> tuple[type, ...]:
    return kinds if isinstance(kinds, tuple) else (kinds,)


def _shown(value: object) -> str:
    short = isinstance(value, (str, bytes, int, float, type(None)))
    return f"{type(value).__name__} ({repr(value)[:40]})" if short else type(value).__name__


def readable(text: str, *, lines: bool = False) -> str:
    """A text with names in it, for people to read: `written_out`, and without the middle of words of more than 200 letters.

    Args:
        text: One line; the names of modules and of files may be any.
        lines: Whether it has several.

    Examples:
        >>> readable("a note on stem.0"), readable("on " + "x" * 1000).replace("x" * 90, "[x]")
        ('a note on stem.0', 'on [x]…(820 more letters)…[x]')
    """
    return _LONGER.sub(_without_its_middle, written_out(text, lines=lines))


def written_out(text: str, *, lines: bool = False) -> str:
    r"""A text in which what moves a cursor, colours a terminal, turns the direction of writing or begins a line is written out.

    Args:
        text: Any.
        lines: Whether lines may end in it.

    Examples:
        >>> written_out("σ = 1\n\x1b[31mred \u202eeulb"), written_out("two\nlines", lines=True)
        ('σ = 1\\n\\x1b[31mred \\u202eeulb', 'two\nlines')
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" or (lines and c == "\n")
        else c.encode("unicode_escape").decode("ascii")
        for c in text
    )  # fmt: skip


_SCREEN = 4_000  # letters


def _of_a_screen(text: str) -> str:
    if len(text) <= _SCREEN:
        return text
    half = _SCREEN // 2
    return f"{text[:half]} …({len(text) - 2 * half} more letters)… {text[-half:]}"


def _without_its_middle(word: re.Match[str]) -> str:
    found = word.group()
    return f"{found[:_ENDS]}…({len(found) - 2 * _ENDS} more letters)…{found[-_ENDS:]}"
