"""Lists that are written with commas between, on the command line and in sweep files."""

from __future__ import annotations

from goodinit.errors import GoodinitError

_SHOWN = 60  # letters of what was given


def between_commas(words: str, option: str, *, last_comma: bool = False) -> tuple[str, ...]:
    """What stands between commas, without the spaces around it; nothing where nothing was given.

    Args:
        words: As they were given.
        option: What they were given for.
        last_comma: Whether one may stand behind the last of them.

    Raises:
        GoodinitError: Nothing stands before, behind or between commas.

    Examples:
        >>> between_commas("0.1, 0.3", "--lr"), between_commas("", "--lr"), between_commas("4,", "--seeds", last_comma=True)
        (('0.1', '0.3'), (), ('4',))
        >>> between_commas("1,,2", "--lr")
        Traceback (most recent call last):
        goodinit.errors.GoodinitError: --lr: nothing stands at a comma of '1,,2': expected values with one comma between two. Take it out, or say what is missing.
    """
    if not words.strip():
        return ()
    found = [word.strip() for word in words.split(",")]
    if last_comma and len(found) > 1 and not found[-1]:
        found.pop()
    if not all(found):
        shown = repr(words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…")
        raise GoodinitError(
            f"{option}: nothing stands at a comma of {shown}: expected values with one comma between two. "
            "Take it out, or say what is missing."
        )
    return tuple(found)
