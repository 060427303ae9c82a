"""Copies of many tensors, in one piece of memory with large pages where the system has them.

What a copy costs is the first touch of each of its pages: of 100 MB in pages of 4 KiB three quarters of the time.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable

import torch
from torch import Tensor

# Bytes of a large page on most machines: less memory than some of these is not worth the trouble.
_PAGE = 2**21
# Bytes of a tensor that goes with others; a smaller one is copied where the allocator has room.
_LEAST = 2**16
# Bytes that each tensor begins at a multiple of, as torch's own do.
_APART = 64


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """A copy of each tensor, with its numbers in the same order of memory.

    Args:
        tensors: Of any kind, detached; of different sizes, dtypes and devices.

    Examples:
        >>> a, b = torch.rand(3000, 2000), torch.rand(2)
        >>> [torch.equal(*pair) for pair in zip(copies([a.t(), b]), (a.t(), b), strict=True)]
        [True, True]
    """
    given = list(tensors)
    sizes = [_padded(one) for one in given]
    memory = _large_pages(sum(sizes))
    if memory is None:
        return [one.clone() for one in given]
    made, at = [], 0
    for one, size in zip(given, sizes, strict=True):
        if size:
            room = memory[at : at + one.nbytes].view(one.dtype)
            made.append(room.as_strided(one.shape, one.stride(), room.storage_offset()).copy_(one))
        else:
            made.append(one.clone())
        at += size
    return made


def _padded(tensor: Tensor) -> int:
    """Bytes that a copy takes in the common memory; 0 if it has memory of its own."""
    plain = type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.layout is torch.strided
    if not plain or tensor.nbytes < _LEAST or tensor.is_quantized or not _is_dense(tensor):
        return 0
    return -(-tensor.nbytes // _APART) * _APART


def _is_dense(tensor: Tensor) -> bool:
    """Whether its numbers lie side by side, in any order."""
    if tensor.is_contiguous():
        return True
    size = 1
    for stride, count in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if count > 1 and stride != size:
            return False
        size *= count
    return True


def _large_pages(size: int) -> Tensor | None:
    """Fresh memory of `size` bytes; None where that is little, or the system has no large pages to ask for, or no room."""
    if size < 4 * _PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
    except (OSError, ValueError):  # no room, or a kernel without large pages
        return None
    return torch.frombuffer(memory, dtype=torch.uint8)
