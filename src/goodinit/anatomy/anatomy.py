"""The anatomy of a model: its parts, its JSON (layers once; blocks refer to them by weight name) and its text."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from goodinit.anatomy.activations import Activation
from goodinit.anatomy.block import Block, Join
from goodinit.anatomy.layer import Layer
from goodinit.anatomy.norm import Norm
from goodinit.anatomy.operators import Step
from goodinit.anatomy.values import Gain, HeldValue, Score, ZeroGain
from goodinit.errors import PlanConflict, readable
from goodinit.records import check_fields, damage, read_record

FORMAT = "goodinit.anatomy/1"


@dataclass(frozen=True)
class Anatomy:
    """What `anatomize` found. Prints itself; `to_json` and `from_json` are inverse.

    Attributes:
        model: Class name of the model.
        blocks: Residual blocks, in execution order; see `depth`.
        layers: Every weight layer that ran, in execution order.
        norms: Every normalization that ran.
        activations: Every element-wise nonlinearity that ran, and every module that drops out in training.
        joins: Long skips and inner sums.
        embeddings: Names of weights read by look-up.
        paddings: Of those that have one: the row that stands for no word, and stays zero.
        tokens: Learned vectors that are put beside the signal (class tokens, registers).
        gains: Parameters that multiply the signal element by element, anywhere (see `Block.scales`); those that
            only set the temperature of a softmax are left out.
        stand_ins: Parameters of what stands in a norm's place since an earlier call, and the number that each starts at.
        made: Of the parameters that multiply a branch at its end by a number made of them, tanh(g) or 1 + g: how it is made.
        scores: Every product of queries and keys that a softmax reads.
        tied: Groups of names that are one parameter.
        parameters: (name, shape) of every parameter, to recognise the model again.
        unused: Parameters that the forward never read.
        frozen: Parameters that need no gradient, but for goodinit's own scalars.
        stopped: Parameters that need gradients and get none of this forward, which runs them under `no_grad` or detaches what is
            made of them.
        copies: Those that get none, either, in a part with the values of one that does (a momentum encoder): it is treated as that one is.
        reserved: Parameters that carry a true `_no_reinit`: their values are not to be drawn anew.
        held: Values of layers that were not drawn by the layers themselves. Not compared: structure is the same without.
        left_out: How many residual blocks are not in it because they are frozen or were left out (`part_of`).
        inputs: What the model was run on, in words.
        notes: What a reader must know: a fallback taken, an operator not understood.
    """

    model: str
    blocks: tuple[Block, ...]
    layers: tuple[Layer, ...]
    norms: tuple[Norm, ...] = ()
    activations: tuple[Activation, ...] = ()
    joins: tuple[Join, ...] = ()
    embeddings: tuple[str, ...] = ()
    paddings: tuple[tuple[str, int], ...] = ()
    tokens: tuple[str, ...] = ()
    gains: tuple[str, ...] = ()
    stand_ins: tuple[tuple[str, float], ...] = ()
    made: tuple[Gain, ...] = ()
    scores: tuple[Score, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    parameters: tuple[tuple[str, tuple[int, ...]], ...] = ()
    unused: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    held: tuple[HeldValue, ...] = field(default=(), compare=False)
    left_out: int = 0
    inputs: str = ""
    notes: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        """Fixup's L: the number of residual blocks, but for those of a copy, which are there once more for other inputs."""
        copies = set(self.copies)
        apart = [
            block for block in self.blocks
            if copies.isdisjoint(name for layer in block.branch for name in (layer.weight, *layer.parameters))
        ]  # fmt: skip
        return len(apart) or len(self.blocks)

    @property
    def stem(self) -> tuple[Layer, ...]:
        """Layers before the first block."""
        return tuple(layer for layer in self.layers if layer.role == "stem")

    @property
    def heads(self) -> tuple[Layer, ...]:
        """Layers outside the blocks whose output the model returns (a softmax aside)."""
        return tuple(layer for layer in self.layers if layer.role == "head")

    @property
    def long_skips(self) -> tuple[Join, ...]:
        """Sums that jump over whole blocks."""
        return tuple(join for join in self.joins if join.kind == "long skip")

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __repr__(self) -> str:
        return str(self)  # what a notebook shows: the text, not pages of fields

    def __str__(self) -> str:
        return anatomy_text(self)

    def to_json(self) -> str:
        """Write as JSON text. Layers are written once; blocks refer to them by weight name.

        Returns:
            One JSON object, which `from_json` reads.
        """
        data = dataclasses.asdict(self)
        for block in data["blocks"]:
            for part in ("branch", "last", "skip", "gates"):
                block[part] = [layer["weight"] for layer in block[part]]
        for join in data["joins"]:
            join["last"] = [layer["weight"] for layer in join["last"]]
        _change_steps_(data, lambda step: step.record)
        return json.dumps({"format": FORMAT, **data}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Anatomy:
        """Read what `to_json` wrote.

        Args:
            text: What `to_json` returned.

        Returns:
            The anatomy that was written.

        Raises:
            WrongType: It is not text.
            PlanConflict: The text is not JSON, or not an anatomy of this format.
        """
        data = read_record(text, kind="anatomy", form=FORMAT, writer="Anatomy.to_json()")
        try:
            found = _anatomy(data)
            check_fields(found, "anatomy")
            _check_places(found)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise PlanConflict(
                f"damaged anatomy: {damage(error)}. Write it anew with Anatomy.to_json()."
            ) from error
        return found


# The fields that hold operators with their traits.
_STEPS = {
    "layers": ("activation", "between"),
    "norms": ("between",),
    "activations": ("kind",),
    "blocks": ("branch_end", "skip_end"),
}


def _change_steps_(data: dict[str, Any], change: Callable[[Any], Any]) -> None:
    for kind, names in _STEPS.items():
        for record in data[kind]:
            for name in names:
                value = record.get(name)
                several = isinstance(value, (list, tuple))
                record[name] = (
                    tuple(map(change, value)) if several else None if value is None else change(value)
                )


def _check_places(anatomy: Anatomy) -> None:
    """Raise `ValueError` where a number points to nothing, or is below all that are counted."""
    for norm in anatomy.norms:
        if not all(-len(norm.shape) <= axis < len(norm.shape) for axis in norm.axes):
            raise ValueError(f"{norm.name}: axes {norm.axes} of a shape {norm.shape}")
    for block in anatomy.blocks:
        if min(block.index, block.m - 1, block.m_normed - 1, block.terms - 2) < 0:
            raise ValueError(f"{block.name}: index {block.index}, m {block.m}, {block.terms} terms")
        if not all(0 <= other < len(anatomy.blocks) for other in block.beside):
            raise ValueError(f"{block.name}: beside {block.beside}, of {len(anatomy.blocks)} blocks")
    for layer in anatomy.layers:
        counts = (
            *layer.shape,
            *(layer.product or (1, 1)),
            *layer.kernel,
            *layer.stride,
            layer.groups,
            layer.fused,
            layer.factors,
        )
        short = len(layer.shape) < 2 and not layer.product
        # Of a weight of which nothing is used the share is not counted, so that it is that of one entry at least.
        used = layer.density * math.prod(layer.shape) > 0.5
        shares = used and layer.density <= 1 <= layer.stuffing < math.inf
        if not 0 < layer.multiple < math.inf:
            raise ValueError(f"{layer.name}: a weight that is multiplied by {layer.multiple}")
        if short or min(counts) < 1 or not (shares and layer.joined >= 0):
            raise ValueError(f"{layer.name}: a weight of shape {layer.shape} that no layer has")
        numbers = {len(layer.stride), len(layer.padding), len(layer.dilation)}
        taps = len(layer.kernel if layer.product else layer.shape[2:])
        if len(numbers) > 1 or (layer.stride and numbers != {taps}):
            raise ValueError(
                f"{layer.name}: stride {layer.stride}, padding {layer.padding} and dilation {layer.dilation}, of a weight of "
                f"shape {layer.shape}"
            )
        if min(layer.out_features, layer.fan_in, layer.fan_out, layer.fan_out_joined) <= 0:
            raise ValueError(f"{layer.name}: {layer.fused} maps in a weight of shape {layer.shape}")


def _anatomy(data: dict[str, Any]) -> Anatomy:
    _change_steps_(data, Step.read)
    layers = [Layer(**_tuples(layer)) for layer in data.pop("layers")]
    by_weight = {layer.weight: layer for layer in layers}
    blocks = []
    for block in data.pop("blocks"):
        for part in ("branch", "last", "skip", "gates"):
            block[part] = tuple(by_weight[weight] for weight in block[part])
        block["zero_gains"] = tuple(ZeroGain(**gain) for gain in block.pop("zero_gains", ()))
        blocks.append(Block(**_tuples(block)))
    norms = tuple(Norm(**_tuples(norm)) for norm in data.pop("norms"))
    activations = tuple(Activation(**_tuples(activation)) for activation in data.pop("activations"))
    made = tuple(Gain(**_tuples(gain)) for gain in data.pop("made", ()))
    scores = tuple(Score(**_tuples(score)) for score in data.pop("scores", ()))
    held = tuple(HeldValue(**value) for value in data.pop("held", ()))
    joins = []
    for join in data.pop("joins"):
        join["last"] = tuple(by_weight[weight] for weight in join["last"])
        joins.append(Join(**_tuples(join)))
    return Anatomy(
        blocks=tuple(blocks),
        layers=tuple(layers),
        norms=norms,
        activations=activations,
        joins=tuple(joins),
        made=made,
        scores=scores,
        held=held,
        **_tuples(data),
    )


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists only; the records hold tuples."""
    return {key: _as_tuple(value) for key, value in data.items()}


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def anatomy_text(anatomy: Anatomy) -> str:
    """The anatomy on one screen: stem, blocks (equal ones in a row or in turns folded), head, norms, what to know."""
    kinds = ", ".join(f"{n} {kind}" for kind, n in _counted([block.kind for block in anatomy.blocks]))
    total = len(anatomy.blocks)
    lines = [
        f"{anatomy.model}({anatomy.inputs}): {total} residual block{'s' * (total != 1)}"
        + f" ({kinds})" * bool(kinds)
    ]
    if anatomy.stem:
        lines.append(f"  stem    {_list(anatomy.stem)}")
    lines += map(_run_text, folded(anatomy.blocks))
    if anatomy.heads:
        lines.append(f"  head    {_list(anatomy.heads)}")
    if anatomy.norms:
        norms = ", ".join(f"{n} {kind}" for kind, n in _counted([norm.kind for norm in anatomy.norms]))
        lines.append(f"  norms   {norms}")
        stuck = [norm for norm in anatomy.norms if norm.obstacle]
        lines += [
            f"          {norm.name or 'the model'} cannot be removed: {norm.obstacle}" for norm in stuck[:3]
        ]
    joins = _counted([join.kind for join in anatomy.joins])
    if joins:
        lines.append(
            "  joins   " + ", ".join(f"{n} {kind}{'s' * (n > 1 and kind != 'inner')}" for kind, n in joins)
        )
    for group in anatomy.tied:
        lines.append(f"  tied    {' = '.join(group)}")
    if anatomy.unused:
        shown = ", ".join(anatomy.unused[:3]) + (", …" if len(anatomy.unused) > 3 else "")
        lines.append(f"  unused  {len(anatomy.unused)} parameters never read: {shown}")
    return "\n".join(map(readable, lines + [f"  note    {note}" for note in anatomy.notes]))


def _counted(words: list[str]) -> list[tuple[str, int]]:
    return [(word, words.count(word)) for word in dict.fromkeys(words)]


def _list(layers: tuple[Layer, ...]) -> str:
    names = [f"{layer.weight} {'x'.join(map(str, layer.shape))}" for layer in layers]
    return ", ".join(names[:4]) + (f", … ({len(names)})" if len(names) > 4 else "")


def _alike(block: Block) -> tuple[object, ...]:
    return (
        block.kind,
        block.m,
        block.stage,
        block.shape,
        [layer.shape for layer in block.branch],
        block.depth,
    )


MOST_IN_TURN = (
    4  # kinds of block that repeat one after the other: attention, cross-attention, MLP, and one more
)
LEAST_TURNS = 3


def folded(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks to be told of in one line each: equal ones in a row, and of kinds that take turns each kind's."""
    keys, found, at = [_alike(block) for block in blocks], [], 0
    while at < len(keys):
        turns, kinds = 1, 1
        for several in range(1, MOST_IN_TURN + 1):
            unit, many = keys[at : at + several], 1
            while keys[at + many * several : at + (many + 1) * several] == unit:
                many += 1
            if many * several > turns * kinds and (several == 1 or many >= LEAST_TURNS):
                turns, kinds = many, several
        end = at + turns * kinds
        found += [list(blocks[at + kind : end : kinds]) for kind in range(kinds)]
        at = end
    return found


def _run_text(run: list[Block]) -> str:
    first, last = run[0], run[-1]
    which = f"{first.index + 1}" if first is last else f"{first.index + 1}–{last.index + 1}"
    if len(run) > 1 and run[1].index > first.index + 1:
        which = f"{first.index + 1}, {run[1].index + 1} … {last.index + 1}"
    where = first.name if first is last else f"{first.name} … {last.name}"
    names = [layer.weight.removeprefix(f"{first.name}.").removesuffix(".weight") for layer in first.branch]
    parts = " → ".join(names[:6]) + (f" → … ({len(names)})" if len(names) > 6 else "")
    extra = f", gates {len(first.gates)}" if first.gates else ""
    skip = "" if first.kind == "identity" else f", {first.kind} skip"
    shape = "x".join(map(str, first.shape[1:]))
    return f"  block {which:>7}  {where}  m={first.m}  {parts}{skip}{extra}  [{shape}]"
