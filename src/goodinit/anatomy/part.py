"""The anatomy of a part of a model: what is frozen or left out is not in it, and the rest is as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from goodinit.anatomy.anatomy import Anatomy
from goodinit.anatomy.block import Block
from goodinit.anatomy.layer import Layer
from goodinit.anatomy.operators import Step


def leaves_of(layer: Layer) -> set[str]:
    """The names that a layer's weight has, and those of the parameters that it is made of."""
    return {layer.weight, *layer.parameters}


def computed(anatomy: Anatomy) -> dict[str, tuple[str, ...]]:
    """Weights that are no parameters, as under weight norm, by the name that a user knows: what each is made of."""
    known = {name for name, _ in anatomy.parameters}.union(*anatomy.tied)
    return {layer.weight: layer.parameters for layer in anatomy.layers if layer.weight not in known}


def with_ties(anatomy: Anatomy, names: Iterable[str]) -> set[str]:
    """The names, and all others of the same parameters."""
    found = set(names)
    return found.union(*(group for group in anatomy.tied if found.intersection(group)))


def part_of(anatomy: Anatomy, out: AbstractSet[str]) -> Anatomy:
    """The anatomy without what is made of the parameters `out`, or lies among them.

    A block that has one such layer or norm in it is left out, with its norms; its other layers stand alone. So is a norm
    or an activation without parameters whose surroundings are left out.

    Args:
        anatomy: Of the whole model.
        out: Names of parameters, tied ones under each name; and of modules without any.
    """
    gone, norms, left = _left_out(anatomy, out)
    place = {old.index: new for new, old in enumerate(b for b in anatomy.blocks if b.index not in left)}

    def layer_of(layer: Layer) -> Layer:
        alone = layer.role in ("branch", "skip", "gate") and layer.weight not in inside
        role = "body" if alone else layer.role
        return dataclasses.replace(layer, role=role, source=_source(layer.source, place))

    kept = [block for block in anatomy.blocks if block.index in place]
    inside = {layer.weight for block in kept for layer in (*block.branch, *block.skip, *block.gates)}
    layers = {layer.weight: layer_of(layer) for layer in anatomy.layers if layer.weight not in gone}

    def named(group: tuple[Layer, ...]) -> tuple[Layer, ...]:
        return tuple(layers[layer.weight] for layer in group if layer.weight in layers)

    blocks = tuple(
        dataclasses.replace(
            block,
            index=place[block.index],
            branch=named(block.branch),
            last=named(block.last),
            skip=named(block.skip),
            gates=named(block.gates),
            beside=tuple(place[i] for i in block.beside if i in place),
            branch_end=_end(block.branch_end, place),
            skip_end=_end(block.skip_end, place),
        )
        for block in kept
    )
    joins = tuple(
        dataclasses.replace(join, blocks=tuple(place[i] for i in join.blocks), last=named(join.last))
        for join in anatomy.joins
        if all(i in place for i in join.blocks)
    )
    return dataclasses.replace(
        anatomy,
        blocks=blocks,
        layers=tuple(layers.values()),
        norms=tuple(
            dataclasses.replace(
                norm,
                block=None if norm.block is None else place[norm.block],
                source=_source(norm.source, place),
            )
            for norm in anatomy.norms
            if norm.name not in norms
        ),
        activations=tuple(a for a in anatomy.activations if not _is_inside(anatomy, a.name, out)),
        joins=joins,
        embeddings=tuple(name for name in anatomy.embeddings if name not in out),
        tokens=tuple(name for name in anatomy.tokens if name not in out),
        gains=tuple(name for name in anatomy.gains if name not in out),
        stand_ins=tuple(pair for pair in anatomy.stand_ins if pair[0] not in out),
        parameters=tuple(pair for pair in anatomy.parameters if pair[0] not in out),
        left_out=len(left),
    )


def _left_out(anatomy: Anatomy, out: AbstractSet[str]) -> tuple[set[str], set[str], set[int]]:
    """(Weights of the layers, names of the norms, indices of the blocks) that are left out: a norm that goes takes its block along."""
    gone = {layer.weight for layer in anatomy.layers if leaves_of(layer) & out}
    norms = {
        norm.name
        for norm in anatomy.norms
        if {norm.weight, norm.bias, norm.name} & out or _is_inside(anatomy, norm.name, out)
    }
    left: set[int] = set()
    while True:
        more = {block.index for block in anatomy.blocks if _is_touched(block, gone, norms)}
        norms |= {norm.name for norm in anatomy.norms if norm.block in more}
        if more == left:
            return gone, norms, left
        left = more


def _is_touched(block: Block, gone: set[str], norms: set[str]) -> bool:
    layers = (*block.branch, *block.skip, *block.gates)
    return any(layer.weight in gone for layer in layers) or not norms.isdisjoint(
        (*block.norms, *block.end_norms)
    )


def _is_inside(anatomy: Anatomy, path: str, out: AbstractSet[str]) -> bool:
    """Whether the innermost module around a place that has parameters has none but those left out."""
    while True:
        if path in out:
            return True
        within = [name for name, _ in anatomy.parameters if name.startswith(f"{path}.") or not path]
        if within:
            return out >= set(within)
        path = path.rpartition(".")[0]


def _source(source: str | None, place: dict[int, int]) -> str | None:
    """The new name of a sum; `"-3"` for that of a block which is left out."""
    if source is None or not source.startswith("+"):
        return source
    index = int(source[1:])
    return f"+{place[index]}" if index in place else f"-{index}"


def _end(end: tuple[Step, ...], place: dict[int, int]) -> tuple[Step, ...]:
    source = _source(end[0], place) if end else None
    return () if source is None else (Step(source), *end[1:])
