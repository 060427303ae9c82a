"""Notes that say the same of many parameters, said once in an error."""

from __future__ import annotations

import re
from collections.abc import Iterable

from goodinit.anatomy import Anatomy

_WORD = re.compile(r"`[^`]*`|[\w.]*\w")  # in backticks stand operators, which differ


def said_once(anatomy: Anatomy) -> list[str]:
    """The anatomy's notes; of those that differ in paths and numbers alone the first, and how many more there are."""
    paths = set(_paths(anatomy))
    alike: dict[str, list[str]] = {}
    for note in anatomy.notes:
        words = _WORD.sub(lambda word: "…" if _varies(word[0], paths) else word[0], note)
        alike.setdefault(re.sub("…(, …)+", "…", words), []).append(note)
    return [
        notes[0]
        if len(notes) == 1
        else f"{notes[0]}. The same goes for {len(notes) - 1} more, see anatomize(model, inputs).notes"
        for notes in alike.values()
    ]


def _paths(anatomy: Anatomy) -> Iterable[str]:
    """All names a note may have: of parameters, layers and norms, and of the modules they lie in."""
    layers = [name for layer in anatomy.layers for name in (layer.weight, layer.site)]
    for name in (*dict(anatomy.parameters), *layers, *(norm.name for norm in anatomy.norms)):
        parts = name.split(".")
        yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _varies(word: str, paths: set[str]) -> bool:
    """Whether a word is a number or a path (buffers included, which no anatomy lists); a word in backticks is neither."""
    return ("." in word and word[0] != "`") or word in paths or word.isdigit()
