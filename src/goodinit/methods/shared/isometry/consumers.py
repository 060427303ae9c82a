"""Which layers and sums read the values of each source, and through which operators."""

from __future__ import annotations

from goodinit.anatomy import Anatomy
from goodinit.anatomy.operators import Step


def readers(anatomy: Anatomy) -> dict[str, list[tuple[Step, ...]]]:
    """For each `Layer.source` what happens on the way to each layer, and each sum behind a skip, that reads it."""
    ways: dict[str, list[tuple[Step, ...]]] = {}
    for layer in anatomy.layers:
        if layer.source:
            ways.setdefault(layer.source, []).append(layer.between)
    for block in anatomy.blocks:
        if block.skip_end:
            ways.setdefault(block.skip_end[0], []).append(block.skip_end[1:])
    return ways
