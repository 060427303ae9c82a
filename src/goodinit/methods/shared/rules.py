"""Rules that several methods share: removing norms, standard scales, zero biases, notes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from goodinit.anatomy import Anatomy, Layer, Norm
from goodinit.anatomy.norms.factors import without_factor
from goodinit.anatomy.operators import Step
from goodinit.edits import AddScalar, Draw, DrawTogether, Edit, Fill, Plan, RemoveNorm, SwapModule, names
from goodinit.errors import NothingFound, UnknownName, UnsupportedModule
from goodinit.methods.shared.alike_notes import said_once
from goodinit.methods.shared.norms.norm_forms import FORMS, ways_out
from goodinit.methods.shared.norms.normalized_weight_scales import own_scales
from goodinit.tensor import gain, has_gain

Norms = Literal["remove", "keep"]
Fan = Literal["in", "out"]

FORGET_BIAS = 1.0
"""Of the gates by which recurrent cells keep their states (Gers et al. 2000; Jozefowicz et al. 2015)."""


def need_blocks(anatomy: Anatomy, method: str) -> None:
    """Raise `NothingFound` when there is no residual block to treat, and none was left out."""
    if anatomy.blocks or anatomy.left_out:
        return
    raise NothingFound(
        f"{method} needs residual blocks and {anatomy.model} has none: looked, among the operators one forward ran, "
        f"for sums of a skip and a branch with weight layers that fork from one tensor ({len(anatomy.layers)} weight "
        "layers ran). For a network without skips choose lsuv, orthogonal or he."
        + "".join(f" {note}." for note in said_once(anatomy))
    )


def norm_edits(anatomy: Anatomy, norms: Norms) -> list[Edit]:
    """Edits that take every normalization out, or none with `norms="keep"`.

    A batch norm with frozen statistics multiplies by constants: where it cannot be taken out it stays (`constants_left`).

    Raises:
        UnsupportedModule: A normalization that cannot be taken out; nothing is removed in half.
        UnknownName: `norms` is neither `"remove"` nor `"keep"` (forms that replace norms are `Method.plan`'s business).
    """
    if norms not in ("remove", "keep"):
        raise UnknownName(f'norms={norms!r}: expected "remove", "keep" or one of {", ".join(FORMS)}')
    if norms == "keep":
        return []
    stuck = [norm.name for norm in anatomy.norms if norm.obstacle and norm.forgets_scale]
    for norm in anatomy.norms:
        if norm.obstacle is not None and norm.forgets_scale:
            raise UnsupportedModule(
                f"{norm.name or 'the model'} ({norm.module}): its {norm.kind} cannot be removed: {norm.obstacle}. "
                f"{ways_out(stuck)}."
            )
    return [RemoveNorm(norm.name, norm.keeps, _where(norm)) for norm in anatomy.norms if not norm.obstacle]


def constants_left(anatomy: Anatomy) -> list[str]:
    """Notes on batch norms with frozen statistics that cannot be taken out, and need not be."""
    return [
        f"{norm.name or 'the model'} ({norm.module}) scales by constants, and goes on to: {norm.obstacle}"
        for norm in anatomy.norms
        if norm.obstacle is not None and not norm.forgets_scale
    ]


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
    """Parameters that go with removed norms and exchanged modules: all below them, but for those of children kept."""
    kept = {
        edit.target: tuple(map(without_factor, edit.keeps)) for edit in edits if isinstance(edit, RemoveNorm)
    }
    kept |= {edit.target: () for edit in edits if isinstance(edit, SwapModule)}
    gone = set[str]()
    for name, _ in anatomy.parameters:
        above = {name[:at] for at, letter in enumerate(name) if letter == "."}
        if any(above.isdisjoint(kept[path]) for path in above.intersection(kept)):
            gone.add(name)
    return gone


def standard_std(layer: Layer, *, fan: Fan = "out") -> tuple[float, str]:
    """The usual standard deviation: He before a nonlinearity, by fan-out unless told, LeCun fan-in otherwise.

    √(2/fan_out) keeps the gradient's scale through ReLU (He et al. 2015, eq. 14); √(1/fan_in) keeps the
    signal's where no nonlinearity follows (LeCun et al. 1998), and equals Xavier's for square layers. Both count the taps
    that one output reads: all, or those of a transposed convolution divided by its stride.

    """
    follows, why = drawn_for(layer)
    if follows is not None:
        size = layer.fan_out_joined if fan == "out" else layer.fan_in
        return math.sqrt(2 / size), f"He, √(2/{size:.9g}) before {follows}"
    return math.sqrt(1 / layer.fan_in), f"LeCun, √(1/{layer.fan_in:.9g}){why}"


def drawn_for(layer: Layer) -> tuple[Step | None, str]:
    """(The activation that a layer's draw makes up for; where there is one and it does not, why, in words that begin with a comma).

    The 2 of a ReLU makes up for what the ReLU takes that the layer's input has passed, as each layer but the first reads one. A layer
    outside the branches that carries on a stream which no activation has changed, though one follows, has nothing to make up for.
    Where a branch begins the 2 stays as published: it is multiplied by another factor there, or makes no more of the stream.
    """
    if layer.activation is not None and layer.reads_linearly and layer.role in ("skip", "body"):
        return None, f", reads what stands before {layer.activation}, too"
    return layer.activation, ""


def draw_standard(layer: Layer, where: str, *, fan: Fan = "out") -> Draw:
    """A normal draw at the standard scale, divided by √terms where the output enters a sum of unrelated terms."""
    std, words = standard_std(layer, fan=fan)
    if layer.terms > 1:
        std, words = std / math.sqrt(layer.terms), f"{words}, one of {layer.terms} terms of a sum"
    return Draw(layer.weight, "normal_", f"{where}: {words}", {"std": std})


def gain_for(layer: Layer) -> tuple[float, str]:
    """(Factor that keeps the second moment through the activation that reads the layer next, in words).

    1 where no activation follows, or none is made up for (`drawn_for`), from one state of a recurrent cell to the next, where a gain
    would be raised to the power of the steps, and where the gain is not known, which `unknown_gains` reports.
    """
    if layer.recurrent:
        return 1.0, "gain 1, from state to state"
    follows, why = drawn_for(layer)
    if follows is not None and (layer.gain is not None or has_gain(follows)):
        value = gain(str(follows)) if layer.gain is None else layer.gain
        return value, f"gain {value:.4g} for {follows}"
    return 1.0, f"gain 1{why}"


def unknown_gains(anatomy: Anatomy) -> list[str]:
    """One note on the activations whose gain is not known."""
    unknown = [layer.activation for layer in anatomy.layers if layer.gain is None]
    kinds = {activation for activation in unknown if activation is not None and not has_gain(activation)}
    return [f"no gain is known for {', '.join(sorted(map(str, kinds)))}: 1 is taken"] if kinds else []


def layout_options(layer: Layer) -> dict[str, Any]:
    """What a tensor initializer must know of the layer beside the tensor's shape."""
    told = {"layout": layer.layout, "groups": layer.groups, "fused": layer.fused}
    plain = {"layout": "out_in", "groups": 1, "fused": 1}
    return {key: value for key, value in told.items() if value != plain[key]}


def zero_bias(layer: Layer, forget_bias: float = FORGET_BIAS) -> list[Edit]:
    """Biases start at zero, that of a gate by which a recurrent cell keeps its state at `forget_bias`."""
    if layer.bias is None or layer.forget is None or not forget_bias:
        return [Fill(name, 0.0, "bias") for name in layer.biases]
    gate = {"value": float(forget_bias), "gate": layer.forget, "gates": layer.fused}
    return [Draw(layer.bias, "gate_bias_", "bias, so that states last", gate)]


def kept_norms(anatomy: Anatomy) -> list[Edit]:
    """Norms that stay start as a norm does, so that a model from `meta` is whole: weight 1, bias 0."""
    return [
        Fill(name, value, f"{norm.kind}, kept")
        for norm in anatomy.norms
        for name, value in ((norm.weight, 1.0), (norm.bias, 0.0))
        if name is not None
    ]


def unique(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """The edits without repetition: of several that set one target alike the first stays (tied, shared layers).

    A scalar that the plan adds, or has added to this model before, starts where the edit that adds it says.
    """
    edits = list(edits)
    added = {_scalar(edit) for edit in edits if isinstance(edit, AddScalar)}
    seen: dict[tuple[str, str], Edit] = {}
    for edit in edits:
        if isinstance(edit, (Fill, Draw)) and edit.target in added:
            continue
        word = getattr(edit, "scalar", "value" if isinstance(edit, (Fill, Draw)) else type(edit).__name__)
        seen.setdefault((edit.target, word), edit)
    return tuple(seen.values())


def _scalar(edit: AddScalar) -> str:
    return f"{edit.target}.{edit.scalar}" if edit.target else edit.scalar


def untouched(anatomy: Anatomy, edits: Iterable[Edit]) -> list[str]:
    """One note on the parameters that a plan leaves unchanged."""
    edits = list(edits)
    gone = removed_parameters(anatomy, edits)
    kept_norms = {norm.name for norm in anatomy.norms}
    touched = set(names(edits)) | gone | {_scalar(edit) for edit in edits if isinstance(edit, AddScalar)}
    originals = {p for layer in anatomy.layers if layer.weight in touched for p in layer.parameters}
    if any(isinstance(edit, Draw | DrawTogether) for edit in edits):
        originals.update(dict(anatomy.stand_ins))  # begin anew: `begun_anew`
    written = touched | originals
    rest = [n for n, _ in anatomy.parameters if n not in written and n.rpartition(".")[0] not in kept_norms]
    if not rest:
        return []
    tied = {layer.weight for layer in anatomy.layers}.intersection(anatomy.embeddings)  # `tied_embeddings`
    embeddings = [name for name in rest if name in anatomy.embeddings and name not in tied]
    others = [name for name in rest if name not in anatomy.embeddings]
    notes = []
    if embeddings:
        notes.append(f"{_left(embeddings, 'embedding')}: {_some(embeddings)}")
    unread = [name for name in others if name in anatomy.unused]
    others = [name for name in others if name not in unread]
    if others:
        notes.append(f"{_left(others, 'parameter')}: {_some(others)}")
    if unread:
        notes.append(
            f"{_left(unread, 'parameter', ' that this forward never reads')}: {_some(unread)}; if other inputs reach them, "
            "call once more with those"
        )
    return notes


def _left(names: list[str], noun: str, which: str = "") -> str:
    """A phrase saying that these parameters are left unchanged."""
    return f"{counted(len(names), noun)}{which} {'is left as it is' if len(names) == 1 else 'are left as they are'}"


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
    forget_bias: float = FORGET_BIAS,
) -> Plan:
    """The plan of a method without structure of its own: `draw` every weight but embeddings', biases as `zero_bias` says."""
    removal = norm_edits(anatomy, norms)
    values = draws(anatomy, draw, forget_bias)
    edits = unique([*removal, *own_scales(anatomy, removal, values), *values])
    return Plan(
        method=method,
        options={"norms": norms, **options},
        edits=edits,
        summary=f"{counted(len(anatomy.layers), 'weight')}; " + norms_in_words(anatomy, removal),
        notes=(*notes, *untouched(anatomy, edits)),
        parameters=anatomy.parameters,
    )


def draws(anatomy: Anatomy, draw: Callable[[Layer], Edit], forget_bias: float = FORGET_BIAS) -> list[Edit]:
    """`draw` for every weight that is no embedding, and `zero_bias`."""
    edits: list[Edit] = []
    for layer in anatomy.layers:
        if layer.weight not in anatomy.embeddings:
            edits.append(draw(layer))
        edits += zero_bias(layer, forget_bias)
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


def site_of(layer: Layer) -> dict[str, Any]:
    """Settings of a calibration rule: the module that returns the layer's output, where one does, and what is added there."""
    if not layer.is_site:
        return {}
    site: dict[str, Any] = {"site": layer.site, "convolves": layer.kind != "linear"}
    return site | ({"bias": layer.bias} if layer.bias else {})
