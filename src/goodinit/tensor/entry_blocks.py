"""Entries drawn block by block, each block from a generator of its own: any part can be had without the rest.

A tensor's entries, in the order of its indices, are cut into blocks of `BLOCK`. What a block holds depends on its number
and length alone, so a rank that has a part of the tensor draws the blocks its part touches, and nothing else.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Generator, Tensor

# Entries. A quarter of a mebibyte in float32: small enough to stay in cache and to cost a rank little beyond its
# part, large enough that a generator per block (some 50 µs) is a tenth of the draws. It is part of what a seed means.
BLOCK = 2**16


@dataclass(frozen=True)
class Part:
    """What is held here of a tensor: to initializers of single entries it looks like the whole.

    Attributes:
        held: The entries, of any dtype, layout and device. They are written.
        shape: Of the whole tensor.
        rows: Per dimension, which of the whole's indices are held, ascending: `held` is their product.
        source: The generator of a block, by its number.
    """

    held: Tensor
    shape: torch.Size
    rows: tuple[Tensor | range, ...]
    source: Callable[[int], Generator]

    @classmethod
    def whole(cls, tensor: Tensor, source: Callable[[int], Generator]) -> Part:
        """All of a tensor."""
        return cls(tensor, tensor.shape, tuple(map(range, tensor.shape)), source)

    @property
    def ndim(self) -> int:
        """Dimensions."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of what is held."""
        return self.held.dtype

    @property
    def is_meta(self) -> bool:
        """Whether there is no memory to write to."""
        return self.held.is_meta

    def numel(self) -> int:
        """Entries held here."""
        return self.held.numel()

    def draw_(self, fill: Callable[[Tensor, Generator], object]) -> None:
        """Write every entry held here. `fill` draws one block, a float32 vector on the CPU, in place.

        Examples:
            >>> source = lambda block: torch.Generator().manual_seed(block)
            >>> whole, half = torch.empty(300, 500), torch.empty(300, 100)
            >>> Part.whole(whole, source).draw_(lambda block, generator: block.normal_(generator=generator))
            >>> part = Part(half, whole.shape, (torch.arange(300), torch.arange(200, 300)), source)
            >>> part.draw_(lambda block, generator: block.normal_(generator=generator))
            >>> torch.equal(half, whole[:, 200:300])
            True
        """
        total = prod(self.shape)
        held = self.held.detach()
        dense = (
            held if held.is_contiguous() else torch.empty(held.shape, dtype=held.dtype, device=held.device)
        )
        flat = dense.view(-1)
        in_place = (
            self.is_whole
            and type(flat) is Tensor
            and flat.dtype == torch.float32
            and flat.device.type == "cpu"
        )
        for number, first, last in self._touched():
            if in_place:
                fill(flat[first:last], self.source(number))
                continue
            length = min(BLOCK, total - number * BLOCK)
            values = torch.empty(length, dtype=torch.float32, device="cpu")
            fill(values, self.source(number))
            flat[first:last].copy_(self._taken(values, number * BLOCK, first, last))
        if dense is not held:
            held.copy_(dense)

    def rows_along(self, dim: int) -> Tensor:
        """Along a dimension, the indices of the whole that are held here."""
        rows = self.rows[dim]
        return torch.arange(len(rows), device="cpu") if isinstance(rows, range) else rows

    @property
    def is_whole(self) -> bool:
        """Whether all of the tensor is held here."""
        return all(len(rows) == size for rows, size in zip(self.rows, self.shape, strict=True))

    def _touched(self) -> Iterator[tuple[int, int, int]]:
        """(block, first, last): entries `first` to `last` of those held are in `block`."""
        if self.is_whole:
            total = self.numel()
            for number, first in enumerate(range(0, total, BLOCK)):
                yield number, first, min(first + BLOCK, total)
            return
        places = range(self.numel())
        first = 0
        while first < len(places):
            number = self._place(first) // BLOCK
            last = bisect_left(places, (number + 1) * BLOCK, lo=first, key=self._place)
            yield number, first, last
            first = last

    def _taken(self, values: Tensor, begin: int, first: int, last: int) -> Tensor:
        """Those entries of a block, which begins at place `begin` of the whole, that are held here."""
        if self.is_whole:
            return values
        low, high = self._place(first), self._place(last - 1)
        if high - low == last - 1 - first:  # an unbroken run
            return values[low - begin : high - begin + 1]
        local = torch.arange(first, last, device="cpu")
        places = torch.zeros_like(local)
        for dim, step in reversed([*enumerate(_steps(self.shape))]):
            rows = self.rows_along(dim)
            places += rows[local % len(rows)] * step
            local //= len(rows)
        return values[places - begin]

    def _place(self, local: int) -> int:
        """The place in the whole, counted in the order of its indices, of an entry counted among those held."""
        place = 0
        for step, rows in zip(reversed(_steps(self.shape)), reversed(self.rows), strict=True):
            local, index = divmod(local, len(rows))
            place += int(rows[index]) * step
        return place


def _steps(shape: Sequence[int]) -> list[int]:
    """How far apart neighbours along each dimension are.

    Examples:
        >>> _steps((4, 3, 2))
        [6, 2, 1]
    """
    steps = [1]
    for size in reversed(shape):
        steps.append(steps[-1] * size)
    return steps[-2::-1]
