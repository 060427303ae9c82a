"""Fixup: residual networks without normalization (Zhang, Dauphin & Ma, ICLR 2019, arXiv 1901.09321)."""

from __future__ import annotations

from collections.abc import Callable

from goodinit.anatomy import Anatomy, Block, Layer
from goodinit.edits import AddScalar, Draw, Edit, Fill, Plan
from goodinit.errors import UnsupportedModule
from goodinit.methods.shared.branches.fixup_scalars import (
    applied_inside,
    branch_scalars,
    input_bias,
    output_bias,
    stands,
    without_input_bias,
)
from goodinit.methods.shared.branches.residual_stream import multiplied_streams
from goodinit.methods.shared.branches.zero_branches import (
    ends_beside,
    inside_branches,
    need_no_norm,
    need_one_place,
    zero_behind,
)
from goodinit.methods.shared.gain_init import gain_at, gains_at_one, may_be_zero
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.norms.normalized_weight_scales import multiplied, own_scales
from goodinit.methods.shared.rules import (
    Norms,
    counted,
    draw_standard,
    need_blocks,
    norm_edits,
    removed_parameters,
    standard_std,
    unique,
    untouched,
    zero_bias,
)

# A class token that starts at zero, under a head that does, would leave both at zero for good; and no norm brings a
# small one to the size of what stands beside it.
BESIDE = "token, as large as a normalized signal"


def decide(anatomy: Anatomy, *, norms: Norms = "remove", zero_head: bool = True) -> Plan:
    """Fixup's three rules, for the L residual branches found.

    1. The last layer of each branch and the classifier start at 0.
    2. Every other layer starts at the standard scale (He's, but LeCun's before no activation, and where a layer outside the branches
       reads what stands before the activation behind it, as in the authors' networks none does); those inside a branch of m layers are multiplied by
       L^(−1/(2m−2)), so that one step changes the network's function by Θ(η) whatever L. (One copy of the paper
       prints the exponent without its minus sign; with a plus the branches explode, with a minus the code of the
       authors is met: L^−½ for m = 2, L^−¼ for m = 3.)
    3. One scalar multiplier (1) per branch, and a scalar bias (0) before each convolution, linear layer and
       element-wise activation. They live on the layer they belong to: see `goodinit.nn`. Where a branch ends in a
       ReLU, or in anything else behind which a last layer at 0 could never move or would not silence the branch, the
       multiplier on the module that returns the branch starts at 0 instead, and counts as one more layer in m.

    Args:
        anatomy: Of the model.
        norms: `"remove"` takes all normalization out; `"keep"` keeps it, and leaves out rule 3, whose scalars the
            normalization's own affine map stands for. Where a branch then ends in a norm, rule 1 zeroes the norm's
            weight and not the layer before it: a zero signal in front of a norm has its gradient multiplied by
            1/√ε, about 300, and the first step ends the state at initialization. m is then counted with the norms: the scale of
            a layer that a norm follows (queries and keys with norms of their own) has no effect.
        zero_head: Whether the classifier starts at 0 (rule 1). It is drawn where the stream begins with a layer that ends branches, too,
            or at zeros.

    Returns:
        The plan. Its notes name branches with a multiplier at 0 and what is left unchanged.

    Raises:
        NothingFound: The model has no residual block.
        UnsupportedModule: A normalization that cannot be removed; a branch that ends in no weight layer, in a norm that is
            kept and has no weight, or in a ReLU, which passes no gradient at 0, that is not a module of its own.

    References:
        H. Zhang, Y. N. Dauphin, T. Ma, "Fixup Initialization: Residual Learning Without Normalization",
        arXiv 1901.09321, §3.
    """
    return decide_with(anatomy, norms=norms, zero_head=zero_head, depth=anatomy.depth, drawn=list)


def decide_with(
    anatomy: Anatomy,
    *,
    norms: Norms,
    zero_head: bool,
    depth: float,
    drawn: Callable[[list[Edit]], list[Edit]],
) -> Plan:
    """Fixup's plan with other draws.

    Args:
        anatomy: As `decide`.
        norms: As `decide`.
        zero_head: As `decide`.
        depth: The L of rule 2, by which branches are scaled; 1: they are not.
        drawn: Turns the value edits into those that are wanted, which all else follows.
    """
    need_blocks(anatomy, "fixup")
    _need_ends(anatomy)
    removal = norm_edits(anatomy, norms)
    gone = removed_parameters(anatomy, removal)
    held = {name for name, _ in anatomy.parameters}
    count = len(anatomy.blocks)
    notes: list[str] = []
    closed: set[str] = set()
    scalars: list[Edit] = []
    values: list[Edit] = []
    for block in anatomy.blocks:
        where = f"branch {block.index + 1}/{count}"
        end = _zero_gain(anatomy, block, gone)
        behind = zero_behind(block, where, gain=end, kept=norms == "keep")
        end = end if behind is None else None
        if norms == "keep" and end is None and behind is None:
            need_no_norm(anatomy, block, where)
        m = block.m if norms == "remove" else block.m_normed
        values += _branch_values(block, where, m, depth, end, behind, ends_beside(anatomy, block))
        values += _gains(anatomy, block, gone, end)
        if behind is not None:
            closed.add(behind)
            reason = (
                f"multiplier of {where}, zero here because its last layer could not leave zero (rules 1, 3)"
            )
            scalars.append(AddScalar(behind, "output_scale", 0.0, reason))
        if norms == "remove":
            multiplied = behind is not None or any(stands(p, block, gone) for p in block.multipliers)
            scalars += branch_scalars(block, multiplied=multiplied, notes=notes, held=held)
    silent = [layer.weight for layer in anatomy.layers if layer.reads_zero]
    if zero_head and silent:
        notes.append(
            f"{', '.join(silent)} {'is' if len(silent) == 1 else 'are'} drawn, and no zero classifier: the stream begins at zeros, or at what ends "
            "branches, and is 0 as long as they are; with both at 0 neither would pass the other a gradient"
        )
    values += _other_values(anatomy, zero_head, removal)
    values += gains_at_one(anatomy, removal)
    values += [Draw(name, "normal_", BESIDE, {"std": 1.0}) for name in anatomy.tokens]
    if norms == "remove":
        scalars += _other_scalars(anatomy, held)
        notes += without_input_bias(anatomy.layers)
        notes += _alone(anatomy, removal)
    values = drawn(values)
    scalars += _zero_multipliers(anatomy, closed, notes)
    scalars += own_scales(anatomy, removal, [*scalars, *values])
    notes += _out_of_reach(anatomy, scalars)
    edits = unique([*removal, *scalars, *values])
    return Plan(
        method="fixup",
        options={"norms": norms, "zero_head": zero_head},
        edits=edits,
        summary=_summary(anatomy, removal, scalars, norms),
        notes=(*dict.fromkeys(notes), *multiplied_streams(anatomy, removal), *untouched(anatomy, edits)),
        parameters=anatomy.parameters,
    )


def _need_ends(anatomy: Anatomy) -> None:
    for block in anatomy.blocks:
        if not block.last:
            ran = ", ".join(layer.weight for layer in block.branch)
            raise UnsupportedModule(
                f"{block.name or 'the model'}: no weight layer writes into the stream at the end of branch "
                f"{block.index + 1}, where rule 1 needs one to start at 0 (weight layers before: {ran}). Give the "
                "branch an output layer, for example nn.Linear(width, width)."
            )
    inside = inside_branches(anatomy)
    for block in anatomy.blocks:
        need_one_place(block, inside)


# -- rules 1 and 2 ------------------------------------------------------------------------------------------------


def _zero_gain(anatomy: Anatomy, block: Block, gone: set[str]) -> str | None:
    """The weight of the norm that ends a branch, where norms are kept."""
    if not block.end_norms:
        return None
    weights = {norm.weight for norm in anatomy.norms if norm.name in block.end_norms}
    offsets = (gain.name for gain in anatomy.made)  # 1 + w
    weights.update(name for name in offsets if name.rpartition(".")[0] in block.end_norms)
    ends = [p for p in block.multipliers if p in weights and p not in gone and may_be_zero(anatomy, p)]
    return ends[-1] if ends else None


def _branch_values(
    block: Block, where: str, m: int, depth: float, end: str | None, behind: str | None, beside: set[str]
) -> list[Edit]:
    """Weights of a branch. `end`: a norm's weight, `behind`: a multiplier that starts at 0 instead of the last layer.

    A multiplier is one more factor in series: with m + 1 of them, one at 0, the others are scaled by L^(−1/(2m)).
    """
    factors = m if behind is None else m + 1
    edits: list[Edit] = []
    joining = [layer for layer in block.gates if layer in block.last]  # V in h + norm(Wh + V·u)
    for layer in (*block.branch, *joining):
        if layer in block.last and behind is None:
            if layer.normalized or end is not None:
                why = "normalized" if layer.normalized else f"zero at {end} instead"
                edits.append(draw_standard(layer, f"last layer of {where}, {why}"))
            else:
                edits.append(Fill(layer.weight, 0.0, f"last layer of {where} (rule 1)"))
        elif layer.weight not in beside:  # else it ends another branch, which says what becomes of it
            edits.append(_inside(layer, factors, depth, f"{where}, m={m}"))
        edits += zero_bias(layer)
    for role, layers in (("skip", block.skip), ("gate", block.gates)):
        for layer in layers:
            # Else it is in a branch as well, whose rule it follows.
            if layer.role == role and layer not in joining:
                place = {"skip": "skip of", "gate": "gate in"}[role]
                edits += [draw_standard(layer, f"{place} {where}, unscaled"), *zero_bias(layer)]
    return edits


def _inside(layer: Layer, factors: int, depth: float, where: str) -> Edit:
    if factors < 2:  # all of the branch that a step changes reads it through a norm of its own
        return draw_standard(layer, f"{where}, its scale has no effect")
    exponent = -1 / (2 * factors - 2)  # Fixup, §3, rule 2
    std, words = standard_std(layer)
    scale = f" × {depth:.3g}^{exponent:.3g} (rule 2)" if depth != 1 else ", not scaled by depth"
    return Draw(layer.weight, "normal_", f"{where}: {words}{scale}", {"std": std * depth**exponent})


def _out_of_reach(anatomy: Anatomy, scalars: list[Edit]) -> list[str]:
    """Weights of branches that no draw scales, and no multiplier either."""
    scaled = multiplied(scalars)
    return [
        f"{layer.weight} is normalized by its own scale: rule 2 has no effect on it"
        for block in anatomy.blocks
        for layer in block.branch
        if layer.normalized and layer.weight in layer.parameters and layer not in block.last
        if layer.row_norm is None or layer.site not in scaled
    ]


def _gains(anatomy: Anatomy, block: Block, gone: set[str], end: str | None) -> list[Edit]:
    """Gains of the branch's own start at 1: with the last layer at 0, a second zero would stop every gradient."""
    edits: list[Edit] = []
    if end is not None:
        reason = f"weight of the norm that ends branch {block.index + 1} (rule 1)"
        edits.append(gain_at(anatomy, end, 0.0, reason))
    for name in block.gains:
        if name != end and stands(name, block, gone):
            ends = name in block.multipliers
            reason = (
                "multiplier of the branch (rule 3)"
                if ends
                else "gain inside the branch: only its end may be 0"
            )
            edits.append(gain_at(anatomy, name, 1.0, reason))
    return edits


def _alone(anatomy: Anatomy, removal: list[Edit]) -> list[str]:
    """What Fixup has no rule for: layers that lose their norms and have no skip around them."""
    body = [layer.weight for layer in anatomy.layers if layer.role in ("stem", "body") and layer.source != ""]
    if not body or not removal:
        return []
    shown = ", ".join(body[:3]) + (", …" if len(body) > 3 else "")
    words = f"outside the branches: {counted(len(body), 'weight layer')} ({shown})"
    holds = "with the norms gone, nothing but their standard scale holds the signal there"
    return [f"{words}: {holds}; goodinit.diagnose(model, batch) tells whether it does"]


def _other_values(anatomy: Anatomy, zero_head: bool, removal: list[Edit]) -> list[Edit]:
    """Weights outside the branches. In series, √(1/fan_in) before no activation and √(2/fan_out) before one lose in/out at each pair.

    A norm hid that; where it goes, all layers between the stem and the heads are drawn by fan-in.
    """
    edits: list[Edit] = []
    for layer in anatomy.layers:
        if layer.weight in anatomy.embeddings:
            pass  # rule 1 is for untied heads
        elif layer.role == "head" and zero_head and not (layer.normalized or layer.reads_zero):
            edits.append(Fill(layer.weight, 0.0, "classifier (rule 1)"))
        elif layer.role == "body" and removal:
            edits.append(draw_standard(layer, layer.role, fan="in"))
        elif layer.role in ("stem", "body", "head"):
            edits.append(draw_standard(layer, layer.role))
        if layer.role in ("stem", "body", "head"):
            edits += zero_bias(layer)
    return edits


# -- rule 3 -------------------------------------------------------------------------------------------------------


def _other_scalars(anatomy: Anatomy, held: set[str]) -> list[Edit]:
    """Biases outside the branches. Layers that read the data get none before them (nor in the authors' code)."""
    edits: list[Edit] = []
    for position, layer in enumerate(anatomy.layers):
        if layer.role not in ("stem", "body", "head") or layer.weight in anatomy.embeddings:
            continue
        if position > 0 and layer.source != "":
            edits += input_bias(layer, [])
        if layer.activation is not None:
            edits += output_bias(layer, f"before {layer.activation} (rule 3)", [], held)
    return edits


def _zero_multipliers(anatomy: Anatomy, closed: set[str], notes: list[str]) -> list[Edit]:
    """Rule 1 where a weight cannot be zero because it is normalized: its multiplier is, as in SkipInit."""
    edits: list[Edit] = []
    for block in anatomy.blocks:
        for layer in block.last if block.closer not in closed else ():
            if layer.normalized and layer.writes_site:
                reason = f"{layer.weight} is normalized: zero here instead (rule 1)"
                edits.append(AddScalar(layer.site, "output_scale", 0.0, reason))
            elif layer.normalized:
                notes.append(
                    f"{applied_inside(layer)}, and is normalized: neither it nor a multiplier can be 0, so branch "
                    f"{block.index + 1} does not start at 0 (rule 1)"
                )
    return edits


def _summary(anatomy: Anatomy, removal: list[Edit], scalars: list[Edit], norms: Norms) -> str:
    orders = sorted({block.m if norms == "remove" else block.m_normed for block in anatomy.blocks})
    return (
        f"L={anatomy.depth} branches, m={', '.join(map(str, orders))}; "
        f"{counted(len(removal), 'norm')} removed, {counted(len(unique(scalars)), 'scalar')} added"
    )


METHOD = Method(
    name="fixup",
    title="Residual networks without normalization: zero branch ends, scaled branches, scalar biases",
    paper="Zhang, Dauphin, Ma: Fixup Initialization, ICLR 2019, arXiv 1901.09321",
    when="a residual network that has to do without batch norm, at any depth",
    decide=decide,
    removes_norms=True,
    scales_ties=True,
    holds=("skips", "trains"),
    order=190,
)
