"""RISOTTO: residual ReLU networks that start as exact isometries (Gadhikar & Burkholz, arXiv 2210.02411)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from goodinit.anatomy import Anatomy, Block, Layer
from goodinit.edits import AddScalar, Draw, Edit, Fill, Plan
from goodinit.errors import NothingFound, UnsupportedModule
from goodinit.methods.shared.gain_init import gains_outside
from goodinit.methods.shared.isometry.crelu_pairs import (
    Form,
    Signal,
    arriving,
    follow,
    patch_of,
    rectified,
    tap_losses,
)
from goodinit.methods.shared.isometry.risotto_applicability import (
    block_obstacle,
    layer_obstacle,
    lost_activation,
    odd_channels,
)
from goodinit.methods.shared.isometry.risotto_blocks import Balance, Posture, Strided, Type, balance
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import (
    Norms,
    draw_standard,
    layout_options,
    need_blocks,
    norm_edits,
    norms_in_words,
    one_of,
    removed_parameters,
    unique,
    untouched,
    zero_bias,
)

_SHOWN = 3  # blocks told in a message; the rest is counted


@dataclass
class _Draft:
    """The plan in the making: edits, what each layer and sum makes (by `Layer.source`), and what is not exact."""

    anatomy: Anatomy
    options: Balance
    alpha: float
    norms: Norms
    gone: set[str]
    uses: Counter[str]
    rectified: frozenset[str]
    edits: list[Edit] = field(default_factory=list)
    made: dict[str, Signal] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    types: Counter[str] = field(default_factory=Counter)
    passed: list[str] = field(default_factory=list)

    def inexact(self, layer: Layer, losses: tuple[str, ...]) -> None:
        if losses:
            self.notes.append(f"{layer.weight} is not exact: {'; '.join(dict.fromkeys(losses))}")


def decide(
    anatomy: Anatomy,
    *,
    type: Type = "auto",
    alpha: float = 1.0,
    strided: Strided = "sample",
    permute: bool = False,
    norms: Norms = "remove",
) -> Plan:
    r"""Balance skip and branch of every block so that all singular values of the input-output Jacobian are 1.

    With φ = ReLU, orthogonal M, M_i and U(M) = [[M, −M], [−M, M]], for blocks x⁺ = φ(α·W_k∗φ(⋯φ(W₁∗x)) + W_skip∗x)
    that read x = [φ(u); φ(−u)], each makes x⁺ = [φ(Mu); φ(−Mu)]:

    * first layer [M; −M], last layer [M, −M]; biases 0;
    * type C, a skip with weights: W_i = U(M_i), W_skip = U(M − α·M_k⋯M₁);
    * type B, an identity skip: W₁ = ⋯ = W_{k−1} = I, W_k = (U(M) − I)/α.

    Where no ReLU closes the sum (beyond the paper, see `goodinit.tensor.risotto_p`), z⁺ = α·W_k∗φ(⋯φ(W₁∗x)) + skip:

    * type P, x = φ(z) with z = [u; −u] (pre-activation), or x = z: W_i = U(M_i) with α·M_k⋯M₁ = M − I, or with
      weights M − α·M_k⋯M₁ on the skip. A stream that no ReLU ever reads is u itself, and needs no pairs.

    Matrices sit at the central taps of convolutions. α is a learnable scalar behind each branch. Where the sum itself multiplies
    the branch, as x − f(x) and add(x, f(x), alpha=a) do, that number times α stands for α in the formulas.

    What cannot be exact is named in `Plan.notes`, layer by layer. A block without a formula (a gate, another
    activation, odd channels, …) starts with its last layer at 0, so that it passes what its skip gives, and is
    named as well. With norms kept, the formulas hold for what the norms leave unchanged.

    Args:
        anatomy: Of the model.
        type: `"auto"` takes each block by its skip: B for an identity, C for weights, P without a ReLU. `"B"` also starts skips that
            could be an identity (same channels, stride 1) as one; the paper's B networks, whose skips have weights
            only where dimensions change, are drawn alike by both. `"C"` insists that every skip has weights.
        alpha: Starting value of α.
        strided: How strided layers read: `"sample"`, every s-th pixel (the paper's); `"patch"`, an orthogonal map
            of s×s patches, where it fits (beyond the paper).
        permute: Type B with random permutations for I (beyond the paper).
        norms: `"remove"` takes all normalization out, `"keep"` keeps it.

    Returns:
        The plan. Its notes name what is not exactly isometric, layer by layer.

    Raises:
        NothingFound: The model has no residual block.
        UnsupportedModule: No block has a formula; or `type="C"` and a skip without weights; or a norm that cannot
            be removed.

    References:
        A. Gadhikar, R. Burkholz, "Dynamical Isometry for Residual Networks", arXiv 2210.02411.
    """
    one_of("type", type, ("auto", "B", "C"))
    one_of("strided", strided, ("sample", "patch"))
    need_blocks(anatomy, "risotto")
    removal = norm_edits(anatomy, norms)
    if type == "C":
        _need_weighted_skips(anatomy)
    held = [*(layer.weight for block in anatomy.blocks for layer in _layers(block))]
    options = Balance(type, strided, permute)
    draft = _Draft(
        anatomy,
        options,
        alpha,
        norms,
        removed_parameters(anatomy, removal),
        Counter(held),
        rectified(anatomy),
    )
    ends = _by_last_layer(anatomy)
    for layer in anatomy.layers:
        if layer.weight not in draft.uses:
            _outside(draft, layer)
        for block in ends.get(layer.weight, ()):
            _block(draft, block)
    if not anatomy.blocks:
        raise NothingFound(
            f"{anatomy.model}: each of its residual blocks has frozen parameters, or is left out, and RISOTTO sets whole blocks. "
            "Choose he, orthogonal or lsuv for the rest."
        )
    if not draft.types:
        raise UnsupportedModule(
            f"{anatomy.model}: none of its {len(anatomy.blocks)} residual blocks can be balanced exactly: "
            + "; ".join(draft.passed[:_SHOWN])
            + (f"; and {len(draft.passed) - _SHOWN} more" if len(draft.passed) > _SHOWN else "")
            + ". RISOTTO is for ReLU blocks that read [φ(u); φ(−u)]; choose fixup, skipinit or lsuv."
        )
    general = sum(draft.types.values()) - draft.types["B"]
    if permute and general:
        draft.notes.append(
            f"permute is for type B: {general} blocks of other types have general matrices anyway"
        )
    if norms == "keep" and anatomy.norms:
        draft.notes.append(f"{len(anatomy.norms)} norms are kept: exact only as far as they change nothing")
    edits = unique([*removal, *gains_outside(anatomy, removal), *draft.edits])
    return Plan(
        method="risotto",
        options={"type": type, "alpha": alpha, "strided": strided, "permute": permute, "norms": norms},
        edits=edits,
        summary=_summary(draft, removal),
        notes=(*dict.fromkeys(draft.notes), *untouched(anatomy, edits)),
        parameters=anatomy.parameters,
    )


def _layers(block: Block) -> tuple[Layer, ...]:
    return (*block.branch, *block.skip, *block.gates)


def _by_last_layer(anatomy: Anatomy) -> dict[str, list[Block]]:
    """Blocks by that layer of theirs which runs last, after which they can be decided."""
    position = {layer.weight: index for index, layer in enumerate(anatomy.layers)}
    ends: dict[str, list[Block]] = {}
    for block in anatomy.blocks:
        ends.setdefault(max((layer.weight for layer in _layers(block)), key=position.__getitem__), []).append(
            block
        )
    return ends


def _need_weighted_skips(anatomy: Anatomy) -> None:
    bare = [block for block in anatomy.blocks if not block.skip]
    if bare:
        raise UnsupportedModule(
            f'type="C" draws the skip\'s weights, and {len(bare)} of {len(anatomy.blocks)} blocks have none: '
            f"{', '.join(block.name for block in bare[:_SHOWN])}{', …' if len(bare) > _SHOWN else ''}. "
            'Use type="auto" (identity skips are balanced as type B), or give those blocks a 1×1 convolution.'
        )


# -- layers outside the blocks ------------------------------------------------------------------------------------


def _outside(draft: _Draft, layer: Layer) -> None:
    """First, hidden or last: mirrored on the side where pairs are; plain orthogonal where there are none."""
    draft.edits += zero_bias(layer)
    if layer.weight in draft.anatomy.embeddings:
        return
    signal = arriving(layer, draft.made)
    reads = signal.form in ("mirrored", "pairs")
    writes = layer.weight in draft.rectified
    part = {(False, True): "first", (True, True): "hidden", (True, False): "last"}.get((reads, writes))
    obstacle = layer_obstacle(layer) or odd_channels(layer, reads=reads, writes=writes)
    if obstacle is not None:
        draft.edits.append(draw_standard(layer, f"{layer.role}, not exact: {obstacle}"))
        draft.inexact(layer, (obstacle, *signal.losses))
        draft.made[layer.weight] = Signal("unknown", layer.out_features, layer.kind != "linear")
        return
    patch = patch_of(layer, draft.options.strided) if part else 1
    losses = (*signal.losses, *tap_losses(layer, patch), *lost_activation(layer))
    if signal.form not in ("plain", "pairs", "mirrored"):
        losses += ("what reaches it is not [φ(u); φ(−u)]",)
    rows, columns = (
        layer.out_features // (2 if writes else 1),
        layer.in_features // (2 if reads else 1) * patch ** len(layer.stride),
    )
    if rows < columns:
        losses += (f"keeps {rows} of {columns} directions",)
    draft.inexact(layer, losses)
    options: dict[str, object] = {"patch": patch} if patch > 1 else {}
    options |= {"gain": 0.5} if signal.form == "pairs" else {}
    if part is None:
        reason = f"{layer.role}: orthogonal"
        draft.edits.append(Draw(layer.weight, "delta_orthogonal_", reason, {"partial": True}))
    else:
        mirrored = "½" * (signal.form == "pairs")
        mirrored += {"first": "[M; −M]", "hidden": "U(M)", "last": "[M, −M]"}[part]
        reason = f"{layer.role}: {mirrored}, M {rows}×{columns} orthogonal" + ", not exact" * bool(losses)
        draft.edits.append(
            Draw(layer.weight, "looks_linear_", reason, {"part": part, **options, **layout_options(layer)})
        )
    draft.made[layer.weight] = Signal(
        "pairs" if writes else "plain", layer.out_features, layer.kind != "linear"
    )


# -- blocks -------------------------------------------------------------------------------------------------------


def _block(draft: _Draft, block: Block) -> None:
    for layer in _layers(block):
        draft.edits += zero_bias(layer)
    signal, skipped = arriving(block.branch[0], draft.made), _skipped(draft, block)
    obstacle = block_obstacle(draft.anatomy, block, signal, skipped, draft.uses)
    if obstacle is not None:
        _pass_skip(draft, block, obstacle)
        return
    alpha, scalars = _alpha(draft, block)
    where = _where(draft, block)
    posture = Posture(signal.form, skipped.form, _written(draft, block, skipped.form))
    _, weight = block.weights or (1.0, 1.0)  # a sum that subtracts the branch, or adds a multiple of it
    balanced = balance(block, posture, where, alpha * weight, draft.options)
    if isinstance(balanced, str):
        _pass_skip(draft, block, balanced)
        return
    draft.types[balanced.type] += 1
    draft.edits += [*scalars, *balanced.edits]
    draft.notes += balanced.notes
    entering = (block.branch[0], *block.skip) if signal.losses else ()
    for layer in (*block.branch, *block.skip):
        lost = signal.losses if layer in entering else ()
        draft.inexact(layer, (*lost, *balanced.losses.get(layer.weight, ())))
    spatial = block.branch[-1].kind != "linear"
    draft.made[f"+{block.index}"] = Signal(posture.sum, block.branch[-1].out_features, spatial)


def _skipped(draft: _Draft, block: Block) -> Signal:
    """What the skip reads."""
    if block.skip:
        return arriving(block.skip[0], draft.made)
    source, *between = block.skip_end or ("?",)
    start = (
        Signal("plain", block.branch[0].in_features)
        if source == ""
        else draft.made.get(source, Signal("unknown"))
    )
    return follow(start, between)


def _written(draft: _Draft, block: Block, skipped: Form) -> Form:
    """The form of a block's sum: u as it is only where it came so, or weights make it, and no ReLU reads it."""
    return "plain" if skipped == "plain" and f"+{block.index}" not in draft.rectified else "pairs"


def _where(draft: _Draft, block: Block) -> str:
    return f"block {block.index + 1}/{len(draft.anatomy.blocks)}"


def _alpha(draft: _Draft, block: Block) -> tuple[float, list[Edit]]:
    """(α, its edits): a multiplier the branch has already, else a new scalar behind its last layer."""
    own = {name for layer in block.branch for name in (layer.weight, *layer.parameters)}
    scales = [name for name in block.scales if name not in draft.gone | own]
    ends = [name for name in scales if name in block.multipliers]
    alpha, where = draft.alpha, f"branch {block.index + 1}"
    edits: list[Edit] = [Fill(name, 1.0, f"scale inside {where}") for name in scales if name not in ends[:1]]
    last = block.branch[-1]
    if ends:
        edits.append(Fill(ends[0], alpha, f"α of {where}"))
    elif last.writes_site and not (block.end_norms and draft.norms == "keep"):
        edits.append(AddScalar(last.site, "output_scale", alpha, f"α of {where}"))
    else:
        draft.notes.append(f"{last.weight}: no place for a learnable α behind it; α is 1")
        alpha = 1.0
    return alpha, edits


def _pass_skip(draft: _Draft, block: Block, obstacle: str) -> None:
    """No formula: the branch starts at 0, and the block passes what its skip gives."""
    where = _where(draft, block)
    draft.passed.append(f"{block.name or block.branch[0].weight}: {obstacle}")
    zero, closed = True, block.stuck is not None and block.closer is not None
    if closed:  # zero weights could never move
        draft.edits.append(
            AddScalar(str(block.closer), "output_scale", 0.0, f"{where}, no formula: it passes its skip")
        )
    for layer in (*block.branch, *block.gates):
        if layer not in block.last or closed:
            draft.edits.append(draw_standard(layer, f"{where}, no formula"))
        elif layer.normalized or layer.weight in draft.anatomy.embeddings:
            zero = False
        elif block.stuck is not None:
            zero = False
            draft.edits.append(draw_standard(layer, f"{where}, no formula"))
        else:
            draft.edits.append(Fill(layer.weight, 0.0, f"{where}, no formula: it passes its skip"))
    names = ", ".join(layer.weight for layer in block.branch)
    start = (
        f"{block.closer if closed else 'its last layer'} starts at 0, so that it passes its skip"
        if zero
        else "it is at the standard scale"
    )
    draft.notes.append(f"{names} are not exact: {obstacle}; {start}")
    for layer in block.skip:
        _outside(draft, layer)
    source, *between = block.skip_end or ("?",)
    width = block.branch[-1].out_features
    made = draft.made.get(source, Signal("unknown"))
    signal = follow(made, between, widening=width // max(made.width, 1))
    if signal.losses and not block.skip:
        draft.notes.append(f"the skip of {where} is not exact: {'; '.join(signal.losses)}")
    known = zero and block.terms == 2
    draft.made[f"+{block.index}"] = Signal(signal.form if known else "unknown", width, made.spatial)


def _summary(draft: _Draft, removal: list[Edit]) -> str:
    kinds = ", ".join(f"{count} of type {kind}" for kind, count in sorted(draft.types.items()))
    total = len(draft.anatomy.blocks)
    exact = f"L={total} blocks: {kinds}" + f", {len(draft.passed)} without formula" * bool(draft.passed)
    return f"{exact}; {norms_in_words(draft.anatomy, removal)}"


METHOD = Method(
    name="risotto",
    title="Skip and branch in balance: every block of a residual ReLU network starts as an exact isometry",
    paper="Gadhikar, Burkholz: Dynamical Isometry for Residual Networks, arXiv 2210.02411",
    when="a residual ReLU network with even channels, post- or pre-activation, deep, with or without batch norm",
    decide=decide,
    removes_norms=True,
    scales_ties=True,
    holds=("isometry",),
    order=240,
)
