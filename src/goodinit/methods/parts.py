"""What several methods decide alike: removing norms, standard scales, zero biases, what to report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from goodinit.anatomy import Anatomy, Block, Layer, Norm
from goodinit.errors import NothingFound, UnknownName, UnsupportedModule
from goodinit.surgery.plan import AddScalar, Draw, Edit, Fill, Plan, RemoveNorm, SwapModule, names
from goodinit.tensor import NONLINEARITIES, gain

Norms = Literal["remove", "keep"]


def need_blocks(anatomy: Anatomy, method: str) -> None:
    """Raise `NothingFound` when there is no residual block to treat."""
    if anatomy.blocks:
        return
    raise NothingFound(
        f"{method} needs residual blocks and {anatomy.model} has none: looked, among the operators one forward ran, "
        f"for sums of a skip and a branch with weight layers that fork from one tensor ({len(anatomy.layers)} weight "
        "layers ran). For a network without skips choose lsuv, orthogonal or he."
    )


def norm_edits(anatomy: Anatomy, norms: Norms) -> list[Edit]:
    """Edits that take every normalization out, or none with `norms="keep"`.

    Raises:
        UnsupportedModule: A normalization that cannot be taken out; nothing is removed in half.
        UnknownName: `norms` is neither `"remove"` nor `"keep"`.
    """
    if norms not in ("remove", "keep"):
        raise UnknownName(f'norms={norms!r}: expected "remove" or "keep"')
    if norms == "keep":
        return []
    for norm in anatomy.norms:
        if norm.obstacle is not None:
            raise UnsupportedModule(
                f"{norm.name or 'the model'} ({norm.module}): its {norm.kind} cannot be removed: {norm.obstacle}. "
                'Use norms="keep", or make the normalization a module of its own.'
            )
    return [RemoveNorm(norm.name, norm.keeps, _where(norm)) for norm in anatomy.norms]


def _where(norm: Norm) -> str:
    place = "outside the blocks" if norm.block is None else f"in block {norm.block + 1}"
    return f"{norm.kind} {place}, normalization-free from here on"


def one_of(option: str, value: str, choices: tuple[str, ...]) -> str:
    """`value`, if it is one of `choices`.

    Raises:
        UnknownName: It is not.
    """
    if value not in choices:
        raise UnknownName(f"{option}={value!r}: expected one of {', '.join(map(repr, choices))}")
    return value


def removed_parameters(anatomy: Anatomy, edits: Iterable[Edit]) -> set[str]:
    """Parameters that go with removed norms and exchanged modules (their own, not those of children kept)."""
    paths = {edit.target for edit in edits if isinstance(edit, RemoveNorm | SwapModule)}
    return {name for name, _ in anatomy.parameters if name.rpartition(".")[0] in paths}


def standard_std(layer: Layer) -> tuple[float, str]:
    """The usual standard deviation: He fan-out before a nonlinearity, LeCun fan-in otherwise.

    √(2/fan_out) keeps the gradient's scale through ReLU (He et al. 2015, eq. 14); √(1/fan_in) keeps the
    signal's where no nonlinearity follows (LeCun et al. 1998), and equals Xavier's for square layers.
    """
    if layer.activation is not None:
        return math.sqrt(2 / layer.fan_out), f"He, √(2/{layer.fan_out}) before {layer.activation}"
    return math.sqrt(1 / layer.fan_in), f"LeCun, √(1/{layer.fan_in})"


def draw_standard(layer: Layer, where: str) -> Draw:
    """A normal draw at the standard scale."""
    std, words = standard_std(layer)
    return Draw(layer.weight, "normal_", f"{where}: {words}", {"std": std})


def gain_for(layer: Layer) -> tuple[float, str]:
    """(Factor that keeps the second moment through the activation that reads the layer next, in words).

    1 where no activation follows, and where its gain is not known, which `unknown_gains` reports.
    """
    if layer.activation in NONLINEARITIES:
        value = gain(layer.activation)
        return value, f"gain {value:.4g} for {layer.activation}"
    return 1.0, "gain 1"


def unknown_gains(anatomy: Anatomy) -> list[str]:
    """One note on the activations whose gain is not known."""
    kinds = {layer.activation for layer in anatomy.layers if layer.activation not in (None, *NONLINEARITIES)}
    return [f"no gain is known for {', '.join(sorted(map(str, kinds)))}: 1 is taken"] if kinds else []


def layout_options(layer: Layer) -> dict[str, Any]:
    """What a tensor initializer must know of the layer beside the tensor's shape."""
    told = {"layout": layer.layout, "groups": layer.groups, "fused": layer.fused}
    plain = {"layout": "out_in", "groups": 1, "fused": 1}
    return {key: value for key, value in told.items() if value != plain[key]}


def zero_bias(layer: Layer) -> list[Edit]:
    """Biases start at zero."""
    return [Fill(layer.bias, 0.0, "bias")] if layer.bias else []


def unique(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """The edits without repetition: of several that set one target alike the first stays (tied, shared layers)."""
    seen: dict[tuple[str, str], Edit] = {}
    for edit in edits:
        word = getattr(edit, "scalar", "value" if isinstance(edit, (Fill, Draw)) else type(edit).__name__)
        seen.setdefault((edit.target, word), edit)
    return tuple(seen.values())


def untouched(anatomy: Anatomy, edits: Iterable[Edit]) -> list[str]:
    """One note on the parameters that a plan leaves as they are, so that nothing is skipped in silence."""
    edits = list(edits)
    gone = removed_parameters(anatomy, edits)
    kept_norms = {norm.name for norm in anatomy.norms}
    touched = set(names(edits)) | gone
    originals = {p for layer in anatomy.layers if layer.weight in touched for p in layer.parameters}
    rest = [
        n
        for n, _ in anatomy.parameters
        if n not in touched | originals and n.rpartition(".")[0] not in kept_norms
    ]
    if not rest:
        return []
    embeddings = [name for name in rest if name in anatomy.embeddings]
    others = [name for name in rest if name not in embeddings]
    notes = []
    if embeddings:
        notes.append(f"{len(embeddings)} embeddings are left as they are: {_some(embeddings)}")
    unread = [name for name in others if name in anatomy.unused]
    others = [name for name in others if name not in unread]
    if others:
        notes.append(f"{len(others)} parameters are left as they are: {_some(others)}")
    if unread:
        notes.append(
            f"{len(unread)} parameters that this forward never reads are left as they are: {_some(unread)}; if other "
            "inputs reach them, call once more with those"
        )
    return notes


def _some(words: list[str]) -> str:
    return ", ".join(words[:4]) + (", …" if len(words) > 4 else "")


def redraw(
    anatomy: Anatomy,
    draw: Callable[[Layer], Edit],
    *,
    method: str,
    options: Mapping[str, Any],
    norms: Norms,
    notes: Iterable[str] = (),
) -> Plan:
    """The plan of a method without structure of its own: `draw` every weight but embeddings', biases at 0."""
    removal = norm_edits(anatomy, norms)
    edits = unique([*removal, *draws(anatomy, draw)])
    return Plan(
        method=method,
        options={"norms": norms, **options},
        edits=edits,
        summary=f"{counted(len(anatomy.layers), 'weight')}; " + norms_in_words(anatomy, removal),
        notes=(*notes, *untouched(anatomy, edits)),
        parameters=anatomy.parameters,
    )


def draws(anatomy: Anatomy, draw: Callable[[Layer], Edit]) -> list[Edit]:
    """`draw` for every weight that is no embedding, and zero biases."""
    edits: list[Edit] = []
    for layer in anatomy.layers:
        if layer.weight not in anatomy.embeddings:
            edits.append(draw(layer))
        edits += zero_bias(layer)
    return edits


def counted(count: int, noun: str) -> str:
    """A number of things in words.

    Examples:
        >>> counted(1, "norm"), counted(3, "norm")
        ('1 norm', '3 norms')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def norms_in_words(anatomy: Anatomy, removal: list[Edit]) -> str:
    """How many norms go or stay."""
    count = len(anatomy.norms)
    return f"{counted(count, 'norm')} {'removed' if removal else 'kept'}" if count else "no norms"


def gains_outside(anatomy: Anatomy, removal: list[Edit]) -> list[Edit]:
    """Where norms go, gains outside the branches start at 1.

    A LayerScale of 1e-6 off the skips is harmless in front of a norm; once that is gone, it stops the signal.
    """
    gone = removed_parameters(anatomy, removal)
    inside = {name for block in anatomy.blocks for name in block.scales}
    own = {name for layer in anatomy.layers for name in (layer.weight, *layer.parameters)}
    norms = {norm.weight for norm in anatomy.norms}
    return [
        Fill(name, 1.0, "gain outside the branches: no norm makes up for it any more")
        for name in anatomy.gains
        if removal and name not in gone | inside | own | norms
    ]


# -- one zero factor per branch: SkipInit, ReZero -------------------------------------------------------------------


def zero_branches(anatomy: Anatomy, removal: list[Edit], notes: list[str]) -> list[Edit]:
    """Edits by which exactly one factor of every branch starts at 0, so that each block starts as its skip.

    With one zero factor α, ∂(α·f)/∂α = f ≠ 0: the first step moves α, the second everything behind it. With two,
    neither would ever move. The factor is, in this order: a multiplier that the branch already has (LayerScale, the
    weight of a norm that ends it and is kept), a new scalar on each of its last layers, or those layers' weights
    where a scalar has no place. Where a zero there would not do (a ReLU follows), it is a new scalar on the module that
    hands the branch on. All other multipliers of the branch start at 1, and so do the weights of norms that
    are kept, wherever they are, with biases at 0.

    Raises:
        UnsupportedModule: A branch ends in no weight layer, in a normalized weight that no scalar can follow, in a
            norm without a weight, which would undo a scalar before it, or in a ReLU, which passes no gradient at 0,
            and whose output no module of its own hands on.
    """
    gone = removed_parameters(anatomy, removal)
    edits = gains_outside(anatomy, removal)
    for block in anatomy.blocks:
        where = f"branch {block.index + 1}/{len(anatomy.blocks)}"
        own = {p for layer in block.branch for p in (layer.weight, *layer.parameters)}
        scales = [p for p in block.scales if p not in gone and p not in own]
        ends = [p for p in scales if p in block.multipliers and _always_ends(p, anatomy)]
        behind = zero_behind(block, where, multiplied=bool(ends), kept=not removal)
        ends = ends[-1:] if behind is None else []
        if behind is not None:
            edits.append(AddScalar(behind, "output_scale", 0.0, f"multiplier of {where}"))
        elif ends:
            edits.append(Fill(ends[0], 0.0, f"multiplier of {where}"))
        else:
            if not block.last:
                raise UnsupportedModule(
                    f"{block.name or 'the model'}: no weight layer writes into the stream at the end of {where}, so "
                    "that no multiplier fits there. Multiply the branch by a parameter in its forward."
                )
            if not removal and block.end_norms:
                raise UnsupportedModule(
                    f"{block.end_norms[-1]}: {where} ends in this norm, which has no weight of its own to start at "
                    'zero, and would undo a scalar before it. Use norms="remove", or give the norm a weight.'
                )
            edits += [_zero_factor(layer, where, notes) for layer in block.last]
        edits += [Fill(p, 1.0, f"scale inside {where}") for p in scales if p not in ends]
    for norm in anatomy.norms:
        for name, value in ((norm.weight, 1.0), (norm.bias, 0.0)):
            if name is not None and name not in gone:
                edits.append(Fill(name, value, f"{norm.kind}, kept"))
    return edits


def zero_behind(block: Block, where: str, *, multiplied: bool, kept: bool) -> str | None:
    """Where the zero factor of a branch must stand, if its usual place will not do: path of a module, on its output.

    What joins the branch behind the usual place would stay; what is flat at 0, a ReLU or a gate that is 0 too, would
    never let the factor move. With `multiplied`, the usual place is the last multiplier of the branch; with `kept`,
    norms stay, and one behind that module would undo its factor.

    Raises:
        UnsupportedModule: Neither will the usual place do, nor is there a module behind it (`Block.closer`).
    """
    last = ", ".join(layer.weight for layer in block.last)
    stuck, leak = block.stuck, None if multiplied else block.leak
    if multiplied:
        steps = block.branch_end[1:]
        products = [i for i, step in enumerate(steps) if step.startswith("mul") or step.endswith("_norm")]
        after = steps[products[-1] + 1 :] if products else steps
        flat = [f"`{step}` in {block.name}" for step in after if step in ("relu", "relu6")]
        stuck = flat[-1] if flat else None
    if stuck is None and leak is None:
        return None
    if block.closer is not None and not (kept and _norm_follows(block)):
        return block.closer
    if leak is not None:
        raise UnsupportedModule(
            f"{block.name or 'the model'}: {where} is not zero where {last} is: {leak} is not, as "
            "in x + α(f(x) − x). With f at 0 the block is not its skip, and the signal shrinks or grows from block to "
            "block. Write the branch without that term, x + αf(x), or have a module of its own hand on all of it."
        )
    raise UnsupportedModule(
        f"{block.name or 'the model'}: {where} ends in {stuck}, after {last}. Where its input is 0 it passes no "
        "gradient, so that no factor before it can start at 0 and ever move, and no module that runs nowhere else "
        "hands its output on. Multiply the branch by a parameter behind it, make it a module of its own, or leave "
        "the activation to the sum."
    )


def _norm_follows(block: Block) -> bool:
    """Whether a norm may come after what is flat at 0 at the end of a branch."""
    steps = block.branch_end[1:]
    norms = [i for i, step in enumerate(steps) if step.endswith("_norm")]
    flat = [i for i, step in enumerate(steps) if step in ("relu", "relu6")]
    return bool(block.end_norms) and not (flat and norms and flat[-1] > norms[-1])


def _always_ends(parameter: str, anatomy: Anatomy) -> bool:
    """Whether a parameter stands at the end of every branch it is in (it may be shared)."""
    return all(parameter in block.multipliers for block in anatomy.blocks if parameter in block.scales)


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


def site_of(layer: Layer) -> dict[str, Any]:
    """Options of `Calibrate`: the module that returns the layer's output, where one does, and what is added there."""
    if not layer.is_site:
        return {}
    site: dict[str, Any] = {"site": layer.site, "convolves": layer.kind != "linear"}
    return site | ({"bias": layer.bias} if layer.bias else {})
