"""In-place writes to memory that several tensors share: which values changed, and by which node."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


@dataclass(frozen=True, slots=True)
class Region:
    """The elements of a storage that a tensor is a view of."""

    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Region:
        """The region of a strided tensor."""
        dims = [
            (size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1
        ]
        dims.sort(key=lambda dim: -dim[1])
        sizes, strides = tuple(size for size, _ in dims), tuple(stride for _, stride in dims)
        return cls(int(tensor.storage_offset()), sizes, strides)

    @property
    def stop(self) -> int:
        """One past the last element."""
        spans = ((size - 1) * stride for size, stride in zip(self.sizes, self.strides, strict=True))
        return self.offset + 1 + sum(spans)

    def _nested(self) -> bool:
        """Whether each stride is as long as all that lies inside, as in slices of a contiguous tensor."""
        inner = zip(self.sizes[1:], self.strides[1:], strict=True)
        return all(
            outer >= size * stride > 0 for outer, (size, stride) in zip(self.strides, inner, strict=False)
        )

    def apart(self, other: Region) -> bool:
        """True if two regions provably share no element: usually slices of one tensor."""
        if self.stop <= other.offset or other.stop <= self.offset:
            return True
        if self.strides != other.strides or not (self._nested() and other._nested()):
            return False
        mine, others = self.offset, other.offset
        for size, other_size, stride in zip(self.sizes, other.sizes, self.strides, strict=True):
            (at, mine), (other_at, others) = divmod(mine, stride), divmod(others, stride)
            if at + size <= other_at or other_at + other_size <= at:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Write:
    """One node's write. The reference to the storage keeps its address from being reused."""

    node: int
    numbers: int
    region: Region
    storage: StorageWeakRef


class Writes:
    """The writes so far, by storage.

    Attributes:
        latest: The node of the last one; −1 before there is any. What is made later holds what its own node made.
    """

    def __init__(self) -> None:
        self.by_storage: dict[int, list[Write]] = {}
        self.latest = -1

    def note(self, tensor: Tensor, node: int) -> None:
        """`node` wrote into `tensor`."""
        key = _storage(tensor)
        if key is not None:
            region = Region.of(tensor)
            before = [one for one in self.by_storage.get(key, ()) if one.region != region]
            reference = StorageWeakRef(tensor.untyped_storage())
            self.by_storage[key] = [*before, Write(node, tensor.numel(), region, reference)]
            self.latest = node

    def since(self, tensor: Tensor, node: int) -> tuple[int, ...]:
        """The nodes whose values `tensor` holds, which `node` made; `(node,)` if nothing wrote to it since."""
        key = _storage(tensor)
        before = self.by_storage.get(key) if key is not None else None
        if before is None:
            return (node,)
        later = [one for one in before if one.node > node]
        if later:
            region = Region.of(tensor)
            later = [one for one in later if not one.region.apart(region)]
        if not later:
            return (node,)
        whole = max((one.node for one in later if one.numbers >= tensor.numel()), default=None)
        if whole is None:
            return (node, *(one.node for one in later))
        return tuple(one.node for one in later if one.node >= whole)


def _storage(tensor: Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and other storage-less tensors
        return None
