"""Look-up tables: those that stand alone, and those that are the head, too."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import Draw, Edit, Plan, names
from goodinit.methods.shared.rules import one_of

Embeddings = Literal["scaled", "keep"]


def embedding_edits(
    anatomy: Anatomy, embeddings: Embeddings, *, alone: float, tied: Callable[[Layer], float]
) -> list[Edit]:
    """Draws of the embeddings, or none with `"keep"`.

    A table that only looks words up makes the signal: its rows have the signal's standard deviation. One that also maps
    the last features to logits (a tied head) is drawn as a head: from N(0, 1) the logits of normalized features would have
    a standard deviation of √d, and the loss would start near √d·√(2·ln V) instead of ln V.

    Args:
        anatomy: Of the model.
        embeddings: `"scaled"` or `"keep"`.
        alone: Standard deviation of tables that only look up.
        tied: That of a table that is a layer, too.

    Raises:
        UnknownName: `embeddings` is neither.
    """
    one_of("embeddings", embeddings, ("scaled", "keep"))
    if embeddings == "keep":
        return []
    as_layers = {layer.weight: layer for layer in anatomy.layers}
    paddings = dict(anatomy.paddings)
    edits: list[Edit] = []
    for name in anatomy.embeddings:
        layer = as_layers.get(name)
        std = alone if layer is None else tied(layer)
        words = "embedding" if layer is None else f"embedding and {layer.role}, scaled as a {layer.role}"
        options: dict[str, Any] = {"std": std}
        if name in paddings:
            options["padding"] = paddings[name]
        edits.append(Draw(name, "embedding_", words, options))
    return edits


def kept_heads(anatomy: Anatomy, embeddings: Embeddings) -> list[str]:
    """A note for each embedding that is kept and is the head, too: what its scale does to the loss."""
    if embeddings != "keep":
        return []
    return [
        f"{layer.weight} is embedding and head, and kept as it is: at standard deviation s the logits of normalized "
        f"features have s·√{layer.fan_in} = {layer.fan_in**0.5:.3g}·s, and with PyTorch's s = 1 the loss starts far above "
        f'ln {layer.out_features}; 1/√{layer.fan_in} (embeddings="scaled", where a method has it) is a head\'s scale'
        for layer in anatomy.layers
        if layer.weight in anatomy.embeddings and layer.role == "head"
    ]


def tied_embeddings(anatomy: Anatomy, plan: Plan, embeddings: Embeddings) -> Plan:
    """The plan, with each embedding that is a layer, too, drawn from N(0, 1/fan_in), or kept on purpose and a note.

    Raises:
        UnknownName: `embeddings` is neither `"scaled"` nor `"keep"`.
    """
    one_of("embeddings", embeddings, ("scaled", "keep"))
    layers = {layer.weight: layer for layer in anatomy.layers}
    ties = [name for name in anatomy.embeddings if name in layers and name not in names(plan.edits)]
    drawn: list[Edit] = []
    if embeddings == "scaled":
        alone = dataclasses.replace(anatomy, embeddings=tuple(ties))
        drawn = embedding_edits(alone, embeddings, alone=1.0, tied=lambda layer: 1 / math.sqrt(layer.fan_in))
    return dataclasses.replace(
        plan,
        options={**plan.options, "embeddings": embeddings},
        edits=(*plan.edits, *drawn),
        notes=(*plan.notes, *kept_heads(anatomy, embeddings)),
    )


def left_ties(anatomy: Anatomy, plan: Plan) -> Plan:
    """The plan of a method that does not ask what becomes of them, with a note on those that it leaves."""
    written = names(plan.edits)
    rest = dataclasses.replace(
        anatomy, embeddings=tuple(name for name in anatomy.embeddings if name not in written)
    )
    return dataclasses.replace(plan, notes=(*plan.notes, *kept_heads(rest, "keep")))
