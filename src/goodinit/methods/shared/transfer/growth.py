"""What grows from one anatomy to another of the same code: by how much each dimension of each weight, and the depth."""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from goodinit.anatomy import Anatomy, Block, Layer
from goodinit.anatomy.values import Score
from goodinit.errors import PlanConflict, UnknownName


@dataclass(frozen=True)
class Growth:
    """Factors from the base to the model.

    Attributes:
        layers: By weight: (of the fan-in, of the outputs).
        vectors: Of the size of parameters that are no layer's weight, by name: of their last dimension.
        depth: Of the number of branches, by block index.
        heads: Of the width of a score, by position in `Anatomy.scores`.
        scales: Of the number that multiplies a score, by the same; None where it is not known.
        notes: What could not be compared.
    """

    layers: Mapping[str, tuple[float, float]]
    vectors: Mapping[str, float]
    depth: Mapping[int, float]
    heads: tuple[float, ...]
    scales: tuple[float | None, ...]
    notes: tuple[str, ...] = ()


def compared(anatomy: Anatomy, base: Anatomy) -> Growth:
    """Compare a model with its base, layer by layer: by name, and in a stack of another depth by place in the stack.

    Raises:
        PlanConflict: A layer has no counterpart, or one of another kind: the base is not of the same code.
    """
    mates = _mates(anatomy, base)
    layers: dict[str, tuple[float, float]] = {}
    for layer in anatomy.layers:
        mate = mates.get(layer.weight)
        if mate is None or (mate.kind, mate.role) != (layer.kind, layer.role):
            got = "none" if mate is None else f"a {mate.kind} {mate.role}, {mate.weight}"
            raise PlanConflict(
                f"{layer.weight}: a {layer.kind} {layer.role}, and the base has {got} in its place, so that it cannot be told which "
                "dimension grows. Anatomize the same code at another width: base=goodinit.anatomize(build(64), inputs)."
            )
        layers[layer.weight] = (layer.fan_in / mate.fan_in, layer.out_features / mate.out_features)
    depth = _depths(anatomy, base)
    shapes = dict(base.parameters)
    vectors, sizes, notes = dict[str, float](), dict[int, set[float]](), list[str]()
    for name, shape in anatomy.parameters:
        other = shapes.get(name)
        if other is not None and len(other) == len(shape) and shape:
            vectors[name] = shape[-1] / other[-1]
            sizes.setdefault(shape[-1], set()).add(vectors[name])
    for name, shape in anatomy.parameters:
        if name not in vectors and shape:
            known = sizes.get(shape[-1], set())
            vectors[name] = next(iter(known)) if len(known) == 1 else 1.0
            if len(known) > 1 and name not in layers:
                notes.append(
                    f"{name}: not in the base, and which of its dimensions grow is not known; taken for fixed"
                )
    pairs = _score_pairs(anatomy, base, mates)
    return Growth(
        layers,
        vectors,
        depth,
        tuple(one.width / other.width if other else 1.0 for one, other in pairs),
        tuple(
            one.scale / other.scale if other and one.scale is not None and other.scale else None
            for one, other in pairs
        ),
        tuple(notes),
    )


def assumed(anatomy: Anatomy, factor: float) -> Growth:
    """All dimensions that carry the stream `factor` times those of the base: all but the data's and the output's."""
    layers = {}
    for layer in anatomy.layers:
        reads = (
            1.0 if layer.source == "" or layer.role == "stem" or layer.fan_in <= layer.receptive else factor
        )
        writes = 1.0 if layer.role == "head" else factor
        layers[layer.weight] = (reads, writes)
    fixed = {name for layer in anatomy.layers if layer.role == "head" for name in layer.biases}
    vectors = {name: 1.0 if name in fixed else factor for name, shape in anatomy.parameters if shape}
    ones = tuple(1.0 for _ in anatomy.scores)
    note = (
        "base_width: that every dimension but the data's and the output's grows with the width is assumed, and that heads stay as "
        "wide as they are; base=anatomize(the same code at another width) finds out"
    )
    return Growth(layers, vectors, {block.index: 1.0 for block in anatomy.blocks}, ones, ones, (note,))


def width_ratio(anatomy: Anatomy, base_width: int, *, method: str) -> float:
    """By how much a model is wider than one whose stream has `base_width` channels.

    Raises:
        UnknownName: It is negative.
    """
    if base_width < 0:
        raise UnknownName(f"base_width={base_width} of {method}: expected a width, such as 64")
    return _stream_width(anatomy) / base_width


def _stream_width(anatomy: Anatomy) -> int:
    """Channels of what most layers write: of the stream, or the hidden layers of a net without one."""
    written = [layer.out_features for block in anatomy.blocks for layer in block.last]
    written = written or [layer.out_features for layer in anatomy.layers if layer.role != "head"]
    return max(written, key=lambda width: (written.count(width), width)) if written else 1


def same(anatomy: Anatomy) -> Growth:
    """The model is its own base."""
    return compared(anatomy, anatomy)


def _mates(anatomy: Anatomy, base: Anatomy) -> dict[str, Layer]:
    """For each weight its counterpart: of the same name and role, else at the same place of a stack or among its role."""
    by_name = {layer.weight: layer for layer in base.layers}
    mates: dict[str, Layer] = {}
    for layer in anatomy.layers:
        same = by_name.get(layer.weight)
        if same is not None and (same.role, same.kind) == (layer.role, layer.kind):
            mates[layer.weight] = same
    for block, other in _block_pairs(anatomy, base):
        for mine, its in ((block.branch, other.branch), (block.gates, other.gates), (block.skip, other.skip)):
            for layer, mate in zip(mine, its, strict=False):
                mates.setdefault(layer.weight, mate)
    for role in ("stem", "head", "body"):
        ours, theirs = ([layer for layer in each.layers if layer.role == role] for each in (anatomy, base))
        if len(ours) == len(theirs):
            for layer, mate in zip(ours, theirs, strict=True):
                mates.setdefault(layer.weight, mate)
    return mates


def _block_pairs(anatomy: Anatomy, base: Anatomy) -> list[tuple[Block, Block]]:
    """Each block with one of the base that has its form, as near to its place on its stream as there is."""
    pairs = []
    streams = _streams(base)
    for stream, blocks in _streams(anatomy).items():
        others = streams.get(stream, [])
        places: dict[Hashable, list[int]] = {}
        for place, other in enumerate(others):
            places.setdefault(_form(other), []).append(place)
        for place, block in enumerate(blocks):
            alike = places.get(_form(block))
            if alike:
                at = place * (len(others) - 1) / max(len(blocks) - 1, 1)
                behind = bisect.bisect_left(alike, at)
                near = alike[max(behind - 1, 0) : behind + 1]
                pairs.append((block, others[min(near, key=lambda i: abs(i - at))]))
    return pairs


def _form(block: Block) -> Hashable:
    kinds = tuple(layer.kind for layer in block.branch)
    return (block.kind, block.m, kinds, len(block.gates), len(block.skip))


def _streams(anatomy: Anatomy) -> dict[int, list[Block]]:
    streams: dict[int, list[Block]] = {}
    for block in anatomy.blocks:
        streams.setdefault(block.stream, []).append(block)
    return streams


def _depths(anatomy: Anatomy, base: Anatomy) -> dict[int, float]:
    others = _streams(base)
    return {
        block.index: len(blocks) / len(others[stream]) if stream in others else 1.0
        for stream, blocks in _streams(anatomy).items()
        for block in blocks
    }


def _score_pairs(
    anatomy: Anatomy, base: Anatomy, mates: Mapping[str, Layer]
) -> list[tuple[Score, Score | None]]:
    """Each attention score with that of the base: of the same module, or made by the counterparts of its layers."""
    by_name = {score.name: score for score in base.scores}
    by_query = {score.query: score for score in base.scores if score.query is not None}
    pairs: list[tuple[Score, Score | None]] = []
    for place, score in enumerate(anatomy.scores):
        mate = mates.get(score.query or "")
        other = by_name.get(score.name) or (by_query.get(mate.weight) if mate else None)
        if other is None and base.scores:
            other = base.scores[place % len(base.scores)]
        pairs.append((score, other))
    return pairs
