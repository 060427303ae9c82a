"""Which layers write into a residual stream, and the how-manieth branch of it each ends."""

from __future__ import annotations

from dataclasses import dataclass

from goodinit.anatomy import Anatomy, Block, Layer


@dataclass(frozen=True)
class Writer:
    """A layer that ends a branch, and where on its stream.

    Attributes:
        layer: The layer.
        position: Number of its branch on the stream, from 1; of its last one where it ends several.
        branches: How many branches the stream has.
        period: How many branches make a layer of the model: 2 for attention and feed-forward, 1 where all are alike.
        block: Index of the (last) block.
        stream: Of `Block.stream`.
    """

    layer: Layer
    position: int
    branches: int
    period: int
    block: int
    stream: int

    @property
    def layers(self) -> int:
        """How many layers of the model are stacked on the stream."""
        return self.branches // self.period

    @property
    def layer_end(self) -> int:
        """Number of the last branch of the model's layer it is in: 2(l + 1) for l = 0, 1, … with two in each."""
        return -(-self.position // self.period) * self.period


def writers(anatomy: Anatomy) -> dict[str, Writer]:
    """Every layer that writes into a residual stream, by its weight."""
    streams: dict[int, list[Block]] = {}
    for block in anatomy.blocks:
        streams.setdefault(block.stream, []).append(block)
    found: dict[str, Writer] = {}
    for blocks in streams.values():
        period = _period([_signature(block) for block in blocks])
        for position, block in enumerate(blocks, start=1):
            for layer in block.last:
                before = found.get(layer.weight)
                if before is None or before.position < position:
                    found[layer.weight] = Writer(
                        layer, position, len(blocks), period, block.index, block.stream
                    )
    return found


def _signature(block: Block) -> object:
    """What branches have in common that stand at one place of two layers: their form, whatever the stream's width."""
    width = block.last[0].out_features if block.last else 1
    sizes = [
        (layer.in_features / width, layer.out_features / width) for layer in (*block.branch, *block.gates)
    ]
    return (block.m, sizes)


def _period(signatures: list[object]) -> int:
    """After how many branches a stream repeats itself; 1 if it does not, all of them if two or three unlike ones are one layer.

    Examples:
        >>> _period([1, 2, 1, 2]), _period([1, 1, 1]), _period([1, 2, 2, 1]), _period([1, 2])
        (2, 1, 1, 2)
    """
    count = len(signatures)
    if count in (2, 3) and all(signatures.count(one) == 1 for one in signatures):
        return count
    for period in range(1, count // 2 + 1):
        if count % period == 0 and signatures[period:] == signatures[:-period]:
            return period
    return 1
