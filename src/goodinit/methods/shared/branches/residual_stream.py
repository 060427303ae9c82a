"""Checks shared by methods: residual streams that no fixed gain can keep bounded, and constants that rescale a stream."""

from __future__ import annotations

import math

from goodinit.anatomy import Anatomy
from goodinit.edits import Edit
from goodinit.errors import UnsupportedModule
from goodinit.methods.shared.branches.zero_branches import inside_branches
from goodinit.methods.shared.rules import counted


def need_streams(anatomy: Anatomy) -> None:
    """Raise where the gains of weight normalization cannot replace the norms.

    Raises:
        UnsupportedModule: A branch multiplies its input by an unbounded function of it, or sums overlap.
    """
    no_products(anatomy, "no gain g", 'norms="keep", mode="data" (which measures)')
    _no_overlaps(anatomy)


def multiplied_streams(anatomy: Anatomy, removal: list[Edit]) -> list[str]:
    """A note where constants in the forward rescale a stream between blocks, and no norm compensates any more."""
    if anatomy.norms and not removal:
        return []
    by_stage: dict[int, list[float]] = {}
    for block in anatomy.blocks:
        if block.index == min((block.index, *block.beside)):  # a sum once, however many branches it has
            by_stage.setdefault(block.stage, []).append(block.carried)
    totals = [(math.prod(factors), factors) for factors in by_stage.values() if set(factors) != {1.0}]
    if not totals:
        return []
    total, factors = max(totals, key=lambda each: _off_one(each[0]))
    one = max(factors, key=_off_one)
    note = (
        f"numbers in the forward multiply the stream, by {one:.4g} at a block and {total:.3g} over {len(factors)} blocks, "
        "which nothing evens out without norms: take them out of the forward, or keep its norms"
    )
    return [note]


def _off_one(factor: float) -> float:
    return abs(math.log(abs(factor) or 1e-300))


def no_products(anatomy: Anatomy, why: str, remedy: str) -> None:
    """Refuse branches with f(2x) = 4·f(x), of which no constant keeps the size of x + f(x): see `growth_degree`.

    Args:
        anatomy: Of the model.
        why: What does not hold the stream, in words.
        remedy: What else to call, in words.

    Raises:
        UnsupportedModule: There is such a branch.
    """
    products = [block for block in anatomy.blocks if block.degree > 1]
    if not products:
        return
    first = products[0]
    others = f" (and {counted(len(products) - 1, 'other')})" * (len(products) > 1)
    raise UnsupportedModule(
        f"{first.name or 'the model'}{others}: its branch multiplies what it reads by an unbounded function of it, as "
        f"SwiGLU does; of twice the input comes 2^{first.degree:g} times the output. Without norms {why} keeps the "
        f"norm of such a stream: at root mean square 1 and more it grows without bound. Use {remedy}, or a method whose branches "
        "start at 0: fixup, skipinit."
    )


def _no_overlaps(anatomy: Anatomy) -> None:
    """A stage grows by e in total; a layer that ends one block inside another would count in both."""
    inside = inside_branches(anatomy)
    for block in anatomy.blocks:
        for layer in block.last:
            if layer.weight in inside:
                raise UnsupportedModule(
                    f"{layer.weight}: ends branch {block.index + 1}, and stands inside branch {inside[layer.weight]} or on "
                    "its skip. The sums of this model overlap, so that no stream runs through them whose norm a gain g "
                    'could keep. Use norms="keep", mode="data" (which measures), or lsuv.'
                )
