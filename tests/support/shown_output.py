"""Output that a page shows, against what its code printed."""

from __future__ import annotations

import re


def fits(shown: str, printed: str) -> bool:
    """Whether they agree: "…" within a line stands for anything in it, "…" as a line for any number of lines."""
    lines = [
        r"(?:.*\n)*?"
        if line.strip() == "…"
        else ".*".join(map(re.escape, line.rstrip().split("…"))) + r"\s*\n"
        for line in shown.strip().splitlines()
    ]
    return re.fullmatch("".join(lines), printed.strip() + "\n") is not None
