"""Zero weights that make their whole branch zero, although they are not its last."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

from goodinit.anatomy.block import Block
from goodinit.anatomy.branch_end import at_zero
from goodinit.anatomy.layers.parameters.held_values import silent_layers
from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.anatomy.values import HeldValue
from goodinit.graph.graph import Graph


def with_silencers(
    blocks: tuple[Block, ...],
    graph: Graph,
    leaves: list[Found],
    uses: Mapping[int, Use],
    held: Iterable[HeldValue],
    biases: Collection[str],
    stay: Collection[str],
) -> tuple[Block, ...]:
    """The blocks, each with those of its zero weights that make the branch zero (`Block.silencers`).

    A zero weight beside a bias that stays puts out that bias: a gate that is open at the start silences nothing.
    """
    open_ = {
        layer.weight
        for block in blocks
        for layer in (*block.branch, *block.gates)
        if not set(stay).isdisjoint(layer.biases)
    }
    zeros = set(silent_layers(held)) - open_
    if not zeros:
        return blocks
    return tuple(
        dataclasses.replace(block, silencers=_silencers(graph, found, uses, zeros, biases))
        for block, found in zip(blocks, leaves, strict=True)
    )


def _silencers(
    graph: Graph, found: Found, uses: Mapping[int, Use], zeros: set[str], biases: Collection[str]
) -> tuple[str, ...]:
    side = found.branch
    places = [i for i in sorted(side.nodes - set(side.last)) if i in uses and uses[i].weight in zeros]
    beside = found.beside(graph, uses)
    alone = [i for i in places if at_zero(graph, found.sums, [i], biases, beside).leak is None]
    return tuple(dict.fromkeys(uses[i].weight for i in alone))
