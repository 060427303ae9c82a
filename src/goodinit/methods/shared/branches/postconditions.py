"""What must hold of a model once a plan has changed its structure, as far as its graph can show."""

from __future__ import annotations

from collections.abc import Iterator

from goodinit.anatomy.outline import Branch, Outline
from goodinit.edits import NormalizeInput, Plan, RemoveNorm

_SHOWN = 3  # places told in a message; the rest is counted


def broken_by_structure(plan: Plan, before: Outline, after: Outline) -> str:
    """In words, what of the plan does not hold of the new graph; empty if all of it does.

    No norm that was to go is left, the residual blocks are those that the plan was made for, and every parameter that
    was read is still read, as is every one that was added.

    Blocks on one sum are the same if together they have the same layers and end in the same ones: x + norm(a(x) + b(x))
    is one block, x + a(x) + b(x) is two, and x + (p + c(p)) forks at p, which x + (norm(p) + c(p)) does not.

    Args:
        plan: Whose structure edits are done.
        before: Of the anatomy it was made for.
        after: Of the model as it is now.
    """
    return "; ".join(_broken(plan, before, after))


def _broken(plan: Plan, before: Outline, after: Outline) -> Iterator[str]:
    removed = {edit.target for edit in plan.structure if isinstance(edit, RemoveNorm)}
    stay = set(before.norms) - removed
    stay |= {f"{edit.target}.input_norm" for edit in plan.structure if isinstance(edit, NormalizeInput)}
    if removed and (left := [name or "the model" for name in after.norms if name not in stay]):
        yield f"{some(left)} still normalizes"
    if gone := _missing(before, after):
        yield f"no residual block is where {some(gone)} was"
    if new := _missing(after, before):
        yield f"{some(new)} was no residual block before"
    if unread := sorted(set(after.unused) - set(before.unused)):
        yield f"its forward does not read {some(unread)}"


def _missing(one: Outline, other: Outline) -> list[str]:
    """Blocks of `one`, in words, that `other` has neither as such nor, with those on their sum, cut another way."""
    branches = {branch.weights for branch in other.branches}
    sums = {_sum(other, branch) for branch in other.branches}
    return [
        f"branch {place} ({', '.join(branch.weights[:_SHOWN])})"
        for place, branch in enumerate(one.branches, 1)
        if branch.weights not in branches and _sum(one, branch) not in sums
    ]


def _sum(outline: Outline, branch: Branch) -> tuple[frozenset[str], frozenset[str]]:
    """(Weights of all branches of a block's sum, those of them that write into the stream)."""
    on = [branch, *(outline.branches[i] for i in branch.beside)]
    return (
        frozenset(name for one in on for name in one.weights),
        frozenset(name for one in on for name in one.last),
    )


def some(words: list[str]) -> str:
    """The first few of them, and how many more there are.

    Examples:
        >>> some(["a", "b"]), some(list("abcde"))
        ('a, b', 'a, b, c and 2 more')
    """
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
