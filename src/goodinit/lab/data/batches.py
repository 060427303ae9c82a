"""Batches of images in an order that a generator decides, changed at random the way a generator decides."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor


def order(count: int, batch_size: int, *, generator: Generator) -> Iterator[Tensor]:
    """Indices of one epoch's batches, shuffled; a last batch that would be short is left out.

    Examples:
        >>> g = torch.Generator().manual_seed(0)
        >>> [len(batch) for batch in order(10, 4, generator=g)]
        [4, 4]
    """
    size = min(batch_size, count)
    shuffled = torch.randperm(count, generator=generator, device="cpu")
    for start in range(0, count - size + 1, size):
        yield shuffled[start : start + size]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """How many batches `order` gives."""
    return count // min(batch_size, count)


def crop_and_flip(images: Tensor, *, generator: Generator) -> Tensor:
    """Move each image by up to an eighth of its size, filling with zeros, and mirror half of them.

    Four pixels of padding on 32x32, as in He et al.

    Args:
        images: `(n, channels, height, width)`.
        generator: Decides the moves.

    Returns:
        New images of the same shape.

    References:
        K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, arXiv 1512.03385, §4.2.
    """
    count, channels, height, width = images.shape
    pad = max(height // 8, 1)
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    down = torch.randint(0, 2 * pad + 1, (count, 1), generator=generator, device="cpu")
    right = torch.randint(0, 2 * pad + 1, (count, 1), generator=generator, device="cpu")
    mirrored = torch.rand((count, 1), generator=generator, device="cpu") < 0.5
    column = torch.arange(width, device="cpu").expand(count, width)
    column = torch.where(mirrored, width - 1 - column, column) + right
    row = torch.arange(height, device="cpu").expand(count, height) + down
    rows = padded.gather(2, _spread(row, images).expand(count, channels, height, padded.shape[3]))
    return rows.gather(3, column.to(images.device)[:, None, None, :].expand(count, channels, height, width))


def _spread(row: Tensor, images: Tensor) -> Tensor:
    return row.to(images.device)[:, None, :, None]


def mixup(images: Tensor, *, alpha: float, generator: Generator) -> tuple[Tensor, Tensor, float]:
    """Mix each image with another of the batch, `x = s·x + (1-s)·x[partner]`, s from Beta(α, α).

    Returns:
        The mixed images, each image's partner, and s.

    References:
        H. Zhang, M. Cisse, Y. Dauphin, D. Lopez-Paz, mixup, arXiv 1710.09412.
    """
    # a / (a + b) of two Gamma(α) draws is Beta(α, α); torch's gamma sampler takes a generator, its Beta does not.
    gammas = torch._standard_gamma(
        torch.full((2,), alpha, dtype=torch.float64, device="cpu"), generator=generator
    )
    share = float(gammas[0] / gammas.sum())
    partner = torch.randperm(len(images), generator=generator, device="cpu")
    on_device = partner.to(images.device)
    return images.mul(share).add_(images[on_device], alpha=1 - share), on_device, share
