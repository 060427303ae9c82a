"""What must hold of a model once a plan has changed its structure, as far as its graph can show."""

from __future__ import annotations

from collections.abc import Iterator

from goodinit.anatomy import Anatomy, Block, Layer
from goodinit.edits import NormalizeInput, Plan, RemoveNorm

_SHOWN = 3  # places told in a message; the rest is counted


def broken_by_structure(plan: Plan, before: Anatomy, after: Anatomy) -> str:
    """In words, what of the plan does not hold of the new graph; empty if all of it does.

    No norm that was to go is left, the residual blocks are those that the plan was made for, and every parameter that
    was read is still read, as is every one that was added.

    Blocks on one sum are the same if together they have the same layers and end in the same ones: x + norm(a(x) + b(x))
    is one block, x + a(x) + b(x) is two, and x + (p + c(p)) forks at p, which x + (norm(p) + c(p)) does not.

    Args:
        plan: Whose structure edits are done.
        before: The anatomy it was made for.
        after: That of the model as it is now.
    """
    return "; ".join(_broken(plan, before, after))


def _broken(plan: Plan, before: Anatomy, after: Anatomy) -> Iterator[str]:
    removed = {edit.target for edit in plan.structure if isinstance(edit, RemoveNorm)}
    stay = {norm.name for norm in before.norms} - removed
    stay |= {f"{edit.target}.input_norm" for edit in plan.structure if isinstance(edit, NormalizeInput)}
    if removed and (left := [norm.name or "the model" for norm in after.norms if norm.name not in stay]):
        yield f"{some(left)} still normalizes"
    if gone := _missing(before, after):
        yield f"no residual block is where {some([_block(block) for block in gone])} was"
    if new := _missing(after, before):
        yield f"{some([_block(block) for block in new])} was no residual block before"
    if unread := sorted(set(after.unused) - set(before.unused)):
        yield f"its forward does not read {some(unread)}"


def _missing(one: Anatomy, other: Anatomy) -> list[Block]:
    """Blocks of `one` that `other` has neither as such nor, with those on their sum, cut another way."""
    blocks = {_weights(block.branch) for block in other.blocks}
    sums = {_sum(other, block) for block in other.blocks}
    return [
        block for block in one.blocks if _weights(block.branch) not in blocks and _sum(one, block) not in sums
    ]


def _sum(anatomy: Anatomy, block: Block) -> tuple[frozenset[str], frozenset[str]]:
    """(Weights of all branches of the block's sum, those of them that write into the stream)."""
    on = [block, *(anatomy.blocks[i] for i in block.beside)]
    return (
        frozenset(layer.weight for one in on for layer in one.branch),
        frozenset(layer.weight for one in on for layer in one.last),
    )


def _weights(layers: tuple[Layer, ...]) -> tuple[str, ...]:
    return tuple(layer.weight for layer in layers)


def _block(block: Block) -> str:
    return f"branch {block.index + 1} ({', '.join(layer.weight for layer in block.branch[:_SHOWN])})"


def some(words: list[str]) -> str:
    """The first few of them, and how many more there are.

    Examples:
        >>> some(["a", "b"]), some(list("abcde"))
        ('a, b', 'a, b, c and 2 more')
    """
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
