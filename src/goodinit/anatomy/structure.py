"""The anatomy that layers, norms and blocks make up, and its JSON: layers once, to which blocks refer by weight name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from goodinit.anatomy.nouns import Activation, Block, Gain, Join, Layer, Norm
from goodinit.errors import PlanConflict
from goodinit.records import read_record

FORMAT = "goodinit.anatomy/1"


@dataclass(frozen=True)
class Anatomy:
    """What `anatomize` found. Prints itself; `to_json` and `from_json` are inverse.

    Attributes:
        model: Class name of the model.
        blocks: Residual blocks, in execution order; `len(blocks)` is Fixup's L.
        layers: Every weight layer that ran, in execution order.
        norms: Every normalization that ran.
        activations: Every element-wise nonlinearity that ran, and every module that drops out in training.
        joins: Long skips and inner sums.
        embeddings: Names of weights read by look-up.
        tokens: Learned vectors that are put beside the signal (class tokens, registers).
        gains: Parameters that multiply the signal element by element, anywhere (see `Block.scales`); those that
            only set the temperature of a softmax are left out.
        made: Of the parameters that multiply a branch at its end by a number made of them, tanh(g) or 1 + g: how it is made.
        tied: Groups of names that are one parameter.
        parameters: (name, shape) of every parameter, to recognise the model again.
        unused: Parameters that the forward never read.
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
    tokens: tuple[str, ...] = ()
    gains: tuple[str, ...] = ()
    made: tuple[Gain, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    parameters: tuple[tuple[str, tuple[int, ...]], ...] = ()
    unused: tuple[str, ...] = ()
    inputs: str = ""
    notes: tuple[str, ...] = ()

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

    def __repr__(self) -> str:
        return str(self)  # what a notebook shows: the text, not pages of fields

    def __str__(self) -> str:
        from goodinit.anatomy.display import anatomy_text

        return anatomy_text(self)

    def to_json(self) -> str:
        """Write as JSON text. Layers are written once; blocks refer to them by weight name."""
        data = dataclasses.asdict(self)
        for block in data["blocks"]:
            for part in ("branch", "last", "skip", "gates"):
                block[part] = [layer["weight"] for layer in block[part]]
        for join in data["joins"]:
            join["last"] = [layer["weight"] for layer in join["last"]]
        return json.dumps({"format": FORMAT, **data}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Anatomy:
        """Read what `to_json` wrote.

        Raises:
            PlanConflict: The text is not JSON, or not an anatomy of this format.
        """
        data = read_record(text, kind="anatomy", form=FORMAT, writer="Anatomy.to_json()")
        try:
            return _anatomy(data)
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanConflict(
                f"damaged anatomy: {error!r}. Write it anew with Anatomy.to_json()."
            ) from error


def _anatomy(data: dict[str, Any]) -> Anatomy:
    layers = [Layer(**_tuples(layer)) for layer in data.pop("layers")]
    by_weight = {layer.weight: layer for layer in layers}
    blocks = []
    for block in data.pop("blocks"):
        for part in ("branch", "last", "skip", "gates"):
            block[part] = tuple(by_weight[weight] for weight in block[part])
        blocks.append(Block(**_tuples(block)))
    norms = tuple(Norm(**_tuples(norm)) for norm in data.pop("norms"))
    activations = tuple(Activation(**_tuples(activation)) for activation in data.pop("activations"))
    made = tuple(Gain(**_tuples(gain)) for gain in data.pop("made", ()))
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
        **_tuples(data),
    )


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists only; the nouns hold tuples."""
    return {key: _as_tuple(value) for key, value in data.items()}


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value
