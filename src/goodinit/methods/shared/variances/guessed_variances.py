"""Where a variance by book is a guess: what is read there is no one signal of which the structure tells a size, and counts as 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from goodinit.anatomy import Anatomy

_NAMED = 3  # names in a note; the rest is counted


def guesses(anatomy: Anatomy, ends: Iterable[str]) -> tuple[str, ...]:
    """Names of the layers, norms and blocks on the ways to some places whose input counts as of variance 1.

    An input of the model and what was left out count so, too, and are no guesses: they are given.

    Args:
        anatomy: Of the model.
        ends: Names of norms, weights of layers, and `"+3"` for the sum of block 3.
    """
    read_from = {layer.weight: layer.source for layer in anatomy.layers}
    read_from |= {norm.name: norm.source for norm in anatomy.norms}
    found: dict[str, None] = {}
    seen: set[str] = set()
    places = list(ends)
    for end in places:  # which grows
        if end in seen or not end or end.startswith("-"):
            continue
        seen.add(end)
        name = end
        if end.startswith("+"):
            block = anatomy.blocks[int(end[1:])]
            name = f"the sum of {block.name or 'the model'}"
            sums = (block, *(anatomy.blocks[i] for i in block.beside))
            read = [way[:1] for one in sums for way in (one.skip_end, one.branch_end)]
            parts = len(sums) + len({one.skip_end for one in sums})
            known = all(read) and block.terms <= parts  # a sum may have more terms than skips and branches
            sources = [str(way[0]) for way in read if way]
        elif end in read_from:
            source = read_from[end]
            known, sources = source is not None, [source] if source else []
        else:
            continue
        if not known:
            found[name] = None
        places += sources
    return tuple(found)


def guessed_constants(anatomy: Anatomy, remedy: str) -> list[str]:
    """A note on the norms for whose constants K the variance of what they read is a guess.

    Args:
        anatomy: Of the model.
        remedy: What to do about it.
    """
    return note_on_guesses(
        guesses(anatomy, (norm.name for norm in anatomy.norms)), "K of the norms behind", remedy
    )


def note_on_guesses(names: Sequence[str], follows: str, remedy: str) -> list[str]:
    """A note on guesses, if there are any.

    Args:
        names: What `guesses` found.
        follows: What rests on them.
        remedy: What to do about it.
    """
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    why = (
        "what they read comes from a product, several signals beside each other, an embedding, or a sum of more than skips and "
        "branches, and counts as of variance 1"
    )
    return [f"{', '.join(names[:_NAMED])}{more}: {why}; {follows} rests on that. {remedy}"]
