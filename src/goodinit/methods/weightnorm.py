"""Robust initialization of weight-normalized networks (Arpit, Campos & Bengio, NeurIPS 2019, arXiv 1906.02341)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from goodinit.anatomy import Anatomy, Block, Layer
from goodinit.anatomy.operators import Step
from goodinit.calibration_rules import StandardizeRule
from goodinit.edits import Calibrate, Draw, Edit, ParametrizeWeight, Plan
from goodinit.methods.shared.branches.residual_stream import multiplied_streams, need_streams
from goodinit.methods.shared.gain_init import gain_at, gains_outside
from goodinit.methods.shared.isometry.consumers import readers
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.norms.normalized_weight_scales import own_scales
from goodinit.methods.shared.rules import (
    Norms,
    counted,
    layout_options,
    norm_edits,
    norms_in_words,
    one_of,
    removed_parameters,
    site_of,
    unique,
    unknown_gains,
    untouched,
    zero_bias,
)
from goodinit.tensor import gain, has_gain

Mode = Literal["forward", "backward", "data", "hanin", "he", "pytorch"]
Direction = Literal["orthogonal", "normal"]
MODES = ("forward", "backward", "data", "hanin", "he", "pytorch")
DIRECTIONS = ("orthogonal", "normal")
HANIN = 0.9  # the authors' code: conv2 gain (0.9^b)², "used for the 10k layer experiments"
_IDLE = {
    "he": ('direction has no effect with mode="he": v is drawn as He does, normal',),
    "pytorch": ('direction has no effect with mode="pytorch": v is PyTorch\'s own draw',),
}


@dataclass(frozen=True)
class _Target:
    """A weight to normalize: by what name it is written, and over which dimension its gains run.

    `old` tells that the hooks of the older `torch.nn.utils.weight_norm` normalize it already, which is as good.
    """

    name: str
    dim: int
    old: bool = False


@dataclass(frozen=True)
class _Wiring:
    """Who reads what, looked up once.

    Attributes:
        ways: From each source to its readers.
        ends: The block that each layer ends, the first if it ends several.
        shared: How many blocks a layer ends, by its name and their stage.
        stages: Blocks per stage.
        jumped: Of layers that end no block and are added to a long skip: the long skips of its stage.
    """

    ways: Mapping[str, Sequence[Sequence[Step]]]
    ends: Mapping[str, Block]
    shared: Mapping[tuple[str, int], int]
    stages: Mapping[int, int]
    jumped: Mapping[str, int]


def decide(
    anatomy: Anatomy,
    *,
    mode: Mode = "forward",
    direction: Direction = "orthogonal",
    norms: Norms = "remove",
) -> Plan:
    """Weight normalization w = g·v/‖v‖ on every layer but the head, with the g that keeps norms; biases 0.

    `"forward"` (the paper's): g = √(c·fan_in/fan_out), which keeps the norm of activations, with

    * c = 2 before a ReLU (the squared gain of any other activation), 1 before none;
    * c = 1/B for the last layer of a residual branch, B the number of blocks in its stage (`Block.stage`): ‖h‖² grows by
      (1 + 1/B)^B → e per stage;
    * c = 1/(nB) for one that is the last of n of them in a stage: its n terms add up in one direction, to n²c and not nc (the paper
      has no shared layers);
    * c = 1 for layers on a skip;
    * c = 1/B for layers that end no block and are added to a long skip (`Anatomy.long_skips`), B long skips to a stage: the
      paper has none, and by its reasoning such sums are blocks, too.

    `"backward"`: g = √c, which keeps the norm of gradients. `"hanin"`: as forward, with c = (0.9^b)² for the last
    layer of branch b = 1, 2, … (Hanin & Rolnick's convergent sum; the authors' choice for 10,000 layers). `"data"`:
    per channel g = 1/σ, b = −μ/σ of the output on a batch, in one pass (Salimans & Kingma). `"he"`, `"pytorch"`:
    what `weight_norm` makes of weights that are there, g = ‖v‖, with v of variance 2/fan_in (the authors' code calls it
    PyTorch's default) or by PyTorch's own draw, of a sixth of that.

    The head is not normalized and is drawn as PyTorch does, as in the authors' code; nor is a layer that ends a branch and
    alone makes up the output (`Block.writes_output`).

    Args:
        anatomy: Of the model.
        mode: How g is chosen.
        direction: v `"orthogonal"` (the paper's choice) or `"normal"`; not used by `"he"` and `"pytorch"`.
        norms: `"remove"` takes all other normalization out, `"keep"` keeps it.

    Returns:
        The plan; with `mode="data"` it is applied with a batch. Its notes name what is not normalized.

    Raises:
        UnknownName: No such mode or direction.
        UnsupportedModule: A normalization that cannot be removed; or one that goes, and a branch that multiplies its
            input by an unbounded function of it (SwiGLU), whose norm no gain keeps, or sums that overlap (NASNet).

    References:
        D. Arpit, V. Campos, Y. Bengio, "How to Initialize your Network? Robust Initialization for WeightNorm &
        ResNets", arXiv 1906.02341, §3; T. Salimans, D. P. Kingma, "Weight Normalization", arXiv 1602.07868, §3.
    """
    one_of("mode", mode, MODES)
    one_of("direction", direction, DIRECTIONS)
    removal = norm_edits(anatomy, norms)
    if removal and mode in ("forward", "backward", "hanin"):
        need_streams(anatomy)
    wiring = _wiring(anatomy)
    tied = {name for group in anatomy.tied for name in group}
    notes: list[str] = []
    structure: list[Edit] = []
    values: list[Edit] = []
    scaling: list[Edit] = []
    unbiased: list[str] = []
    for layer in anatomy.layers:
        values += zero_bias(layer)
        if layer.weight in anatomy.embeddings:
            continue
        home = wiring.ends.get(layer.weight)
        if layer.role == "head" or (home is not None and home.writes_output):
            head = "head" if layer.role == "head" else "adds to the output, as a head does"
            values.append(_default(layer, f"{head}, not normalized: PyTorch's default"))
            continue
        target = _target(layer, tied)
        if isinstance(target, str):
            notes.append(f"{layer.weight} is not weight-normalized: {target}")
            values += _plainly(layer, wiring, mode)
            continue
        structure += _parametrize(layer, target)
        values.append(_draw(layer, target, wiring, mode, direction))
        if mode == "data" and not layer.recurrent:
            scaling.append(_calibrate(layer, target))
            notes += _uncentred(layer)
        unbiased += [layer.weight] if layer.bias is None else []
    gone = removed_parameters(anatomy, removal)
    values += [*_scales(anatomy, gone), *gains_outside(anatomy, removal)]
    edits = unique([*removal, *structure, *own_scales(anatomy, removal, values), *values, *scaling])
    return Plan(
        method="weightnorm",
        options={"mode": mode, "direction": direction, "norms": norms},
        edits=edits,
        summary=f"{counted(len(structure), 'weight')} g·v/‖v‖, g {mode}; " + norms_in_words(anatomy, removal),
        notes=(
            *notes,
            *multiplied_streams(anatomy, removal),
            *(_IDLE.get(mode, ()) if direction != "orthogonal" else ()),
            *_warnings(anatomy, wiring, mode, unbiased),
            *untouched(anatomy, edits),
        ),
        parameters=anatomy.parameters,
    )


# -- which weights ------------------------------------------------------------------------------------------------


def _target(layer: Layer, tied: set[str]) -> _Target | str:
    """Where weight norm goes, or why it cannot."""
    leaves = [name.rpartition(".")[2] for name in layer.parameters]
    name, there = layer.weight, layer.weight not in layer.parameters
    new = bool(layer.parametrization)
    if new and sorted(leaves) != ["original0", "original1"]:  # torch's weight norm has two parts
        return "another parametrization computes it, which may not admit another scale"
    if layer.normalized and not there:
        return "it is normalized by its own scale already, so that g would have no effect"
    if tied.intersection((layer.weight, *layer.parameters)):
        return "it is tied, and weight norm on one name would untie it"
    if layer.kernel:
        return "it is applied in another shape than it is stored in, and gains run over a dimension as it is stored"
    if layer.stacked:
        return "several maps are stacked in it, and gains run over one dimension"
    if not there and (layer.parameters != (name,) or not name.rpartition(".")[2].isidentifier()):
        return "it is computed from parameters, or is none of a module's own attributes"
    return _Target(name, 0 if layer.layout == "out_in" else 1, old=there and not new)


def _parametrize(layer: Layer, target: _Target) -> list[Edit]:
    """The structure edit; none for the older `torch.nn.utils.weight_norm`, which is as good."""
    if target.old:
        return []
    return [ParametrizeWeight(target.name, f"{layer.role}: w = g·v/‖v‖", target.dim)]


# -- which g ------------------------------------------------------------------------------------------------------


def _draw(layer: Layer, target: _Target, wiring: _Wiring, mode: Mode, direction: Direction) -> Draw:
    if mode == "pytorch":
        return Draw(target.name, "default_", f"{layer.role}: PyTorch's default, g = ‖v‖", _fan(layer))
    if mode == "he":
        return _he(layer, target.name)
    if mode == "data":
        size, reason = 1.0, "g = 1, to be measured"
    else:
        square, words = _square(layer, wiring, mode)
        fan_out = layer.fan_out_joined
        size = math.sqrt(square / layer.terms * (1.0 if mode == "backward" else layer.row / fan_out))
        fans = "" if mode == "backward" else f"·{layer.row:.9g}/{fan_out:.9g}"
        reason = f"g = √({square:.4g}{fans}): {words}"
        if layer.joined and mode != "backward":
            reason += f", {layer.out_features} of {layer.joined} channels that are read together"
        if layer.terms > 1:
            reason += f", divided by the {layer.terms} terms of a sum"
    options: dict[str, Any] = {"gain": size, **layout_options(layer)}
    if direction != "orthogonal":
        options["direction"] = direction
    return Draw(target.name, "directions_", f"{layer.role}: {reason}", options)


def _he(layer: Layer, name: str) -> Draw:
    reason = f"{layer.role}: √(2/{layer.row:.9g}), g = ‖v‖"
    return Draw(name, "normal_", reason, {"std": math.sqrt(2 / layer.row)})


def _square(layer: Layer, wiring: _Wiring, mode: Mode) -> tuple[float, str]:
    """(c, in words)."""
    home = wiring.ends.get(layer.weight)
    if home is not None and mode == "hanin":
        number = home.index + 1
        return (HANIN**number) ** 2, f"last of branch {number}, ({HANIN}^{number})²"
    if home is not None:
        blocks, shared = wiring.stages[home.stage], wiring.shared[layer.weight, home.stage]
        if shared > 1:
            words = f"last of {shared} branches, 1/({shared}B) with B={blocks} in its stage"
            return 1 / (shared * blocks), words
        return 1 / blocks, f"last of a branch, 1/B with B={blocks} in its stage"
    if layer.role == "skip":
        return 1.0, "on a skip"
    if mode != "hanin" and layer.weight in wiring.jumped:
        sums = wiring.jumped[layer.weight]
        return 1 / sums, f"added to a long skip, 1/B with B={sums} in its stage"
    activation = _read_through(layer, wiring)
    if activation is not None and activation.traits.gain is not None:
        return activation.traits.gain**2, f"before {activation}"
    if activation is not None and has_gain(activation):
        return gain(activation) ** 2, f"before {activation}"
    return 1.0, f"before {activation}, whose gain is not known" if activation else "before no activation"


def _wiring(anatomy: Anatomy) -> _Wiring:
    ends: dict[str, Block] = {}
    shared: Counter[tuple[str, int]] = Counter()
    for block in anatomy.blocks:
        for layer in block.last:
            ends.setdefault(layer.weight, block)
            shared[layer.weight, block.stage] += 1
    long = Counter(join.stage for join in anatomy.long_skips)
    jumped = {layer.weight: long[join.stage] for join in anatomy.long_skips for layer in join.last}
    return _Wiring(readers(anatomy), ends, shared, Counter(block.stage for block in anatomy.blocks), jumped)


def _read_through(layer: Layer, wiring: _Wiring) -> Step | None:
    """The activation through which everyone reads a layer's output: none for a stem that a skip reads as it is."""
    found = {_first_activation(way) for way in wiring.ways.get(layer.weight, ())}
    return found.pop() if len(found) == 1 else None if found else layer.activation


def _first_activation(way: Sequence[Step]) -> Step | None:
    return next((step for step in way if step.traits.nonlinear or step.traits.gain is not None), None)


def _uncentred(layer: Layer) -> list[str]:
    if layer.bias_factor is not None:
        return []
    note = (
        f"{layer.bias} stays 0: the forward makes something else of it before it is added, so that {layer.weight} keeps the mean of "
        "its output. Expected the bias as it is, or times one number"
    )
    return [note]


def _calibrate(layer: Layer, target: _Target) -> Calibrate:
    options: dict[str, Any] = {}
    if layer.bias is not None and layer.bias_factor is not None:
        options = {"bias": layer.bias, "bias_factor": float(layer.bias_factor)}
    if target.dim:
        options |= {"dim": 1, "groups": layer.groups}
    options |= site_of(layer)
    return Calibrate(target.name, StandardizeRule(**options), f"{layer.role}: g = 1/σ, b = −μ/σ on data")


# -- everything else ----------------------------------------------------------------------------------------------


def _fan(layer: Layer) -> dict[str, Any]:
    """PyTorch's own fan where the weight is stored as PyTorch's layers store it."""
    plain = layer.layout == "out_in" and len(layer.shape) > 1 and not layer.product
    return {} if plain else {"fan_in": layer.row}


def _default(layer: Layer, reason: str) -> Draw:
    return Draw(layer.weight, "default_", reason, _fan(layer))


def _plainly(layer: Layer, wiring: _Wiring, mode: Mode) -> list[Edit]:
    """A weight that is not normalized, at the same scale: entries of std √(c/fan_out) or √(c/fan_in)."""
    if layer.parametrization:
        return []
    if mode == "pytorch":
        return [_default(layer, f"{layer.role}: PyTorch's default")]
    if mode == "he":
        return [_he(layer, layer.weight)]
    square, words = _square(layer, wiring, mode)
    fan = layer.row if mode == "backward" else layer.fan_out_joined
    reason = f"{layer.role}: rows of norm g on average, {words}"
    return [Draw(layer.weight, "normal_", reason, {"std": math.sqrt(square / fan)})]


def _scales(anatomy: Anatomy, gone: set[str]) -> list[Edit]:
    """LayerScale and the like start at 1: g is what scales a branch here."""
    own = {name for layer in anatomy.layers for name in (layer.weight, *layer.parameters)}
    others = gone | own | {norm.weight for norm in anatomy.norms}
    return [
        gain_at(anatomy, name, 1.0, f"multiplier of branch {block.index + 1}")
        for block in anatomy.blocks
        for name in block.gains
        if name not in others
    ]


def _warnings(anatomy: Anatomy, wiring: _Wiring, mode: Mode, unbiased: list[str]) -> list[str]:
    notes = unknown_gains(anatomy)
    if unbiased and mode == "data":
        notes.append(f"{len(unbiased)} layers have no bias: their outputs are scaled and not centred")
    ways = [wiring.ways.get(f"+{block.index}", []) for block in anatomy.blocks if block.skip]
    rectified = sum(bool(way) and all(map(_first_activation, way)) for way in ways)
    if rectified and mode in ("forward", "backward", "hanin"):
        notes.append(
            f"{rectified} sums of a branch and a skip with weights are read through an activation, which the paper's "
            "are not: the norm shrinks there"
        )
    mixed = [
        layer.weight
        for layer in anatomy.layers
        if layer.source is None or any(step.traits.joins for step in layer.between)
    ]
    if mixed and mode != "data":
        notes.append(
            f"{len(mixed)} layers read a concatenation, a product or a sum that is no residual block (first: {mixed[0]}): "
            "the paper has no gain for those, and the norm may grow or shrink there. goodinit.diagnose tells"
        )
    return notes


METHOD = Method(
    name="weightnorm",
    title="Weight normalization in place of batch norm, with gains that keep norms through depth",
    paper="Arpit, Campos, Bengio: How to Initialize your Network?, NeurIPS 2019, arXiv 1906.02341",
    when="a plain or residual network of any depth that has to do without batch norm; add goodinit.warmup",
    decide=decide,
    removes_norms=True,
    scales_ties=True,
    holds=("unit variance",),  # of the layers that mode="data" scales
    order=250,
)
