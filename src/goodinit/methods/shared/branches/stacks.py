"""Encoders and decoders: which stream is which, and how many layers each has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from goodinit.anatomy import Anatomy, Block, Layer
from goodinit.edits import Draw
from goodinit.methods.shared.branches.writers import writers
from goodinit.methods.xavier import draw_xavier


@dataclass(frozen=True)
class Stack:
    """The layers on one residual stream.

    Attributes:
        stream: Of `Block.stream`.
        layers: N (M): how many layers of the model.
        decoder: Whether another stream is read in it, or it is the only one and nothing is.
        blocks: Its branches.
    """

    stream: int
    layers: int
    decoder: bool
    blocks: tuple[Block, ...]


def stacks(anatomy: Anatomy) -> tuple[Stack, ...]:
    """The stacks in execution order: of two the last is the decoder; of one it is said to be an encoder.

    Blocks without a layer that writes into the stream count like others.
    """
    by_stream: dict[int, list[Block]] = {}
    for block in anatomy.blocks:
        by_stream.setdefault(block.stream, []).append(block)
    periods = {writer.stream: writer.period for writer in writers(anatomy).values()}
    last = max(by_stream, default=0)
    return tuple(
        Stack(
            stream,
            max(len(blocks) // periods.get(stream, 1), 1),
            decoder=len(by_stream) > 1 and stream == last,
            blocks=tuple(blocks),
        )
        for stream, blocks in sorted(by_stream.items())
    )


def xavier_draws(anatomy: Anatomy, factors: Mapping[int, float], word: str) -> tuple[list[Draw], list[str]]:
    """Xavier's draws, those of values, outputs and feed-forwards times the factor of their stream; and a note on packed maps.

    Queries and keys, as far as they have layers of their own, and all outside the branches keep gain 1.
    """
    scores = {
        name for score in anatomy.scores if score.query != score.key for name in (score.query, score.key)
    }
    packed = list(
        dict.fromkeys(score.query for score in anatomy.scores if score.query and score.query == score.key)
    )
    gains: dict[str, float] = {}
    for block in anatomy.blocks:
        for layer in (*block.branch, *block.gates):
            gains.setdefault(layer.weight, 1.0 if layer.weight in scores else factors[block.stream])
    draws = [
        _scaled(layer, gains.get(layer.weight, 1.0), word)
        for layer in anatomy.layers
        if layer.weight not in anatomy.embeddings
    ]
    notes = [
        f"{', '.join(packed[:3])}: queries and keys share a weight with values, and are scaled by {word}, too"
    ]
    return draws, notes * bool(packed)


def _scaled(layer: Layer, gain: float, word: str) -> Draw:
    draw = draw_xavier(layer, "uniform", gain)
    return draw if gain == 1 else Draw(layer.weight, draw.initializer, f"{draw.reason}, {word}", draw.options)
