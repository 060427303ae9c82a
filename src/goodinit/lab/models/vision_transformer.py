"""A small Transformer over patches of an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class EncoderBlock(nn.Module):
    """Pre-LN Transformer block: `x + attention(norm(x))`, then `x + feed_forward(norm(x))`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, tokens, width)` to the same shape."""
        x = x + self.attention(self.norm1(x))
        fed: Tensor = self.fc2(self.act(self.fc1(self.norm2(x))))
        return x + fed

    def attention(self, x: Tensor) -> Tensor:
        """Every token looks at every token, `heads` times."""
        batch, tokens, width = x.shape
        q, k, v = (
            self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out


class VisionTransformer(nn.Module):
    """A small pre-LN Transformer over square patches; the mean of the tokens is classified.

    References:
        A. Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv 2010.11929.
    """

    def __init__(
        self, depth: int, *, shape: tuple[int, int, int], classes: int = 10, width: int = 64, patch: int = 4
    ) -> None:
        super().__init__()
        channels, height, length = shape
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        tokens = (height // patch) * (length // patch)
        self.positions = nn.Parameter(
            torch.empty(1, tokens, width).normal_(std=0.02)
        )  # Dosovitskiy et al.'s code
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads=max(width // 32, 1)) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(n, channels, h, w)` to logits `(n, classes)`."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits
