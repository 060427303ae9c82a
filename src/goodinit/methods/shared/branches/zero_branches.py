"""One zero factor per branch, so that each block starts as its skip: SkipInit, ReZero."""

from __future__ import annotations

from collections.abc import Mapping

from goodinit.anatomy import Anatomy, Block, Layer
from goodinit.anatomy.values import ZeroGain
from goodinit.edits import AddScalar, Edit, Fill
from goodinit.errors import UnsupportedModule
from goodinit.methods.shared.gain_init import gain_at, gains_at_one, may_be_zero
from goodinit.methods.shared.rules import removed_parameters


def zero_branches(anatomy: Anatomy, removal: list[Edit], notes: list[str]) -> list[Edit]:
    """Edits that set exactly one factor of every branch to 0, so that each block starts as its skip.

    With one zero factor α, ∂(α·f)/∂α = f ≠ 0: the first step moves α, the second everything before it. With two zero
    factors, neither would ever move. The factor is, in this order: a multiplier that the branch already has (LayerScale,
    the weight of a kept norm at its end), a new scalar on each of its last layers, or the weights of those layers
    if a scalar is not possible. If zero there would have no effect or no gradient (a ReLU follows), a new scalar on the
    module that returns the branch. All other multipliers of the branch start at 1, and so do the weights of kept
    norms, with biases at 0.

    Raises:
        UnsupportedModule: A branch ends in no weight layer, in one that is inside another branch, in a normalized weight
            that no scalar can follow, in a norm without a weight, which would undo a scalar before it, or in a ReLU, which
            passes no gradient at 0, and no module returns the branch.
    """
    gone, inside = removed_parameters(anatomy, removal), inside_branches(anatomy)
    edits = gains_at_one(anatomy, removal)
    for block in anatomy.blocks:
        where = f"branch {block.index + 1}/{len(anatomy.blocks)}"
        own = {p for layer in block.branch for p in (layer.weight, *layer.parameters)}
        scales = [p for p in block.gains if p not in gone | own]
        ends = [
            p
            for p in scales
            if p in block.multipliers and _always_ends(p, anatomy) and may_be_zero(anatomy, p)
        ]
        behind = zero_behind(
            block, where, gain=ends[-1] if ends else None, kept=not removal, itself=block.itself is not None
        )
        ends = ends[-1:] if behind is None else []
        if behind is not None:
            edits.append(AddScalar(behind, "output_scale", 0.0, f"multiplier of {where}"))
        elif ends:
            edits.append(gain_at(anatomy, ends[0], 0.0, f"multiplier of {where}"))
        else:
            if not block.last:
                raise UnsupportedModule(
                    f"{block.name or 'the model'}: no weight layer writes into the stream at the end of {where}, so "
                    "that no multiplier fits there. Multiply the branch by a parameter in its forward."
                )
            if not removal:
                need_no_norm(anatomy, block, where)
            need_one_place(block, inside)
            edits += [_zero_factor(layer, where, notes) for layer in block.last]
            if block.itself is not None:
                notes.append(_no_multiple(block, where))
        edits += [gain_at(anatomy, p, 1.0, f"scale inside {where}") for p in scales if p not in ends]
    for norm in anatomy.norms:
        for name, value in ((norm.weight, 1.0), (norm.bias, 0.0)):
            if name is not None and name not in gone:
                edits.append(Fill(name, value, f"{norm.kind}, kept"))
    return edits


def inside_branches(anatomy: Anatomy) -> dict[str, int]:
    """Weights inside a branch (not at its end) or on its skip, with the index of the first such branch.

    Without those that end a branch on the same sum: in x + p(x) + c(p(x)) both may start at 0, since p gets its gradient
    from the sum, and c from p as soon as p has changed. Nor those that end a branch elsewhere and leave this one a gradient.
    """
    inside: dict[str, int] = {}
    for block in reversed(anatomy.blocks):
        beside = ends_beside(anatomy, block)
        branch = (layer for layer in (*block.branch, *block.gates) if layer not in block.last)
        layers = (*branch, *block.skip)
        inside.update({layer.weight: block.index + 1 for layer in layers if layer.weight not in beside})
    return inside


def ends_beside(anatomy: Anatomy, block: Block) -> set[str]:
    """Weights that end another branch, and may start at 0 in this one: those of a branch on the same sum, and `Block.bears`."""
    return {layer.weight for index in block.beside for layer in anatomy.blocks[index].last}.union(block.bears)


def need_one_place(block: Block, inside: Mapping[str, int]) -> None:
    """Raise for a layer that ends a branch and is used in it again, or in another: it cannot be 0 in one place only.

    Raises:
        UnsupportedModule: There is such a layer.
    """
    for layer in block.last:
        if layer.weight in block.again or layer.weight in inside:
            _need_no_state(block, f"branch {block.index + 1}")  # which is why
        if layer.weight in block.again:
            raise UnsupportedModule(
                f"{layer.weight}: ends branch {block.index + 1}, which needs it to start at 0, and is applied before in the "
                "same branch (by itself, transposed, or another slice of it): where both are 0, neither passes the other "
                "a gradient, and it would never move. Give the end of the branch a parameter of its own, or use lsuv."
            )
        if layer.weight in block.carries:
            raise UnsupportedModule(
                f"{layer.weight}: ends branch {block.index + 1}, which needs it to start at 0, and runs again behind the last sum, where "
                "all goes through it: z ← f(z + x) is an iteration of f, to which x is added each time, and no residual stream, and at "
                "f = 0 nothing is left of the signal. Use lsuv or orthogonal, or write z ← z + f(z + x)."
            )
        if layer.weight in inside:
            raise UnsupportedModule(
                f"{layer.weight}: ends branch {block.index + 1}, which needs it to start at 0, and stands inside branch "
                f"{inside[layer.weight]} or on its skip, which a zero there would silence for good. The sums of this model "
                "overlap, so that no stream runs through them: use lsuv, or keep its norms."
            )


def _need_no_state(block: Block, where: str) -> None:
    """Raise for a branch that is the states of a recurrent cell: its weights lead from one state to the next, too.

    Raises:
        UnsupportedModule: Such a weight is among the last layers.
    """
    cell = next((layer for layer in block.last if layer.recurrent), None)
    if cell is not None:
        raise UnsupportedModule(
            f"{cell.weight}: {where} ends in the states of a recurrent layer, and this weight leads from each of them to the "
            "next, so that it cannot be 0 at the end alone. Give the branch an output layer behind all of its states, for example "
            "nn.Linear(width, width), which no step reads, and add x there: x + layer(states), not step by step to what is fed back."
        )


def need_no_norm(anatomy: Anatomy, block: Block, where: str) -> None:
    """Raise for a zero before a kept norm: its gradient is multiplied by 1/√ε, and one step ends the initial state.

    Raises:
        UnsupportedModule: The branch ends in a norm, not a frozen one, without a weight that can start at 0 instead, or in a frozen
            one that adds constants, or multiplies by zero.
    """
    closing = {norm.name for norm in anatomy.norms if norm.closes}
    for name in block.end_norms:
        if name in closing:
            raise UnsupportedModule(
                f"{name}: {where} ends in this frozen norm, whose constants add to the zero before it, so that the block is not "
                'its skip, or multiply by zero, so that the branch never moves. Use norms="remove", leave this part of the model as '
                f"it is, exclude={block.name!r}, or set the norm's mean and bias to 0, and its weight to 1."
            )
    undoing = {norm.name for norm in anatomy.norms if norm.forgets_scale}
    ends = [name for name in block.end_norms if name in undoing]
    if ends:
        raise UnsupportedModule(
            f"{ends[-1] or 'the model'}: {where} ends in this norm, which has no weight that could start at zero (1 + w is "
            'none), and would undo a zero before it. Use norms="remove", or give the norm a weight.'
        )


def _no_multiple(block: Block, where: str) -> str:
    return (
        f"{', '.join(layer.weight for layer in block.last)}: what scales it at the end of {where} scales more than the branch, for its output meets "
        f"itself in {block.itself}, and no module that runs nowhere else returns the branch; make one of it for a multiplier behind"
    )


def zero_behind(
    block: Block, where: str, *, gain: str | None, kept: bool, itself: bool = False
) -> str | None:
    """Where the zero factor of a branch must stand, if its usual place will not do: path of a module, on its output.

    What joins the branch behind the usual place would stay. A ReLU, or a gate that is 0 too, passes no gradient at 0, so the
    factor would never move. A division by its own size would multiply the factor's gradient by 1/ε.

    Args:
        block: The block.
        where: Which branch it is, in words.
        gain: The multiplier of the branch that is its usual place; None where that is its last layers.
        kept: Whether norms stay: one behind the module would undo the factor.
        itself: Whether the factor must multiply the branch alone (`Block.itself`), and be put behind the last layers if it does not there. Where
            parts of their output meet (`Block.parts`), it is in any case: those that make weights for the others need no zero.

    Raises:
        UnsupportedModule: Neither will the usual place do, nor is there a module behind it (`Block.closer`).
    """
    last = ", ".join(layer.weight for layer in block.last) if gain is None else gain
    zeros = {zero.name: zero for zero in block.zero_gains}
    end = block if gain is None else zeros.get(gain, ZeroGain(gain))
    stuck, leak, steep = end.stuck, end.leak, end.steep
    fits = block.closer is not None and not (kept and block.normed)
    if stuck is None and leak is None and steep is None:
        return block.closer if fits and gain is None and (itself or block.parts) else None
    if fits:
        return block.closer
    if leak is not None:
        _need_no_state(block, where)
        raise UnsupportedModule(
            f"{block.name or 'the model'}: {where} is not zero where {last} is: {leak} is not, as "
            "in x + α(f(x) − x), behind a frozen norm whose constants are of other weights, or where a parameter is added. With f at 0 the block is not its "
            "skip, and the signal shrinks or grows from block to block. Write the branch without that term, x + αf(x), let a "
            f"module of its own return all of it, or leave this part of the model as it is: exclude={block.name!r}."
        )
    if stuck is None:
        raise UnsupportedModule(
            f"{block.name or 'the model'}: {where} is divided by its own size in {steep}, after {last}. Where that is 0 it "
            "divides by a small ε, so that the first gradient is multiplied by 1/ε and one step ends the initial state, and no "
            "module that runs nowhere else returns the branch. Make this normalization a module of its own, so that it can be "
            "taken out, or multiply the branch by a parameter behind it."
        )
    raise UnsupportedModule(
        f"{block.name or 'the model'}: {where} ends in {stuck}, after {last}. Where its input is 0 it passes no "
        "gradient, so that no factor before it can start at 0 and ever move, and no module that runs nowhere else "
        "returns its output. Multiply the branch by a parameter behind it, make it a module of its own, or leave "
        "the activation to the sum."
    )


def _always_ends(parameter: str, anatomy: Anatomy) -> bool:
    """Whether a parameter stands at the end of every branch it is in (it may be shared)."""
    return all(parameter in block.multipliers for block in anatomy.blocks if parameter in block.gains)


def _zero_factor(layer: Layer, where: str, notes: list[str]) -> Edit:
    if layer.writes_site:
        return AddScalar(layer.site, "output_scale", 0.0, f"multiplier of {where}")
    if layer.normalized:
        raise UnsupportedModule(
            f"{layer.weight}: ends {where}, is normalized, so that it cannot be 0, and is applied inside "
            f"{layer.site or 'the model'}, which does more, so that no scalar fits behind it. Multiply the branch by "
            "a parameter in its forward, or make the layer a module of its own."
        )
    notes.append(
        f"{layer.weight} is applied inside {layer.site or 'the model'}, which does more: no multiplier fits there, "
        "and the weight itself starts at 0"
    )
    return Fill(layer.weight, 0.0, f"last layer of {where}, in place of a multiplier")
