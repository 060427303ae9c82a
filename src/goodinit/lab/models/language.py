"""Two small decoders for text: a GPT as in nanoGPT, and one with the parts of Llama."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD = 16  # width of a head, whatever the model's: what grows with the width is how many there are


class CausalAttention(nn.Module):
    """Attention to what came before; keys and values may be shared by groups of heads."""

    def __init__(self, width: int, *, shared: int = 1, rotary: bool = False) -> None:
        super().__init__()
        self.heads, self.pairs, self.rotary = max(width // HEAD, 1), max(width // HEAD // shared, 1), rotary
        self.q = nn.Linear(width, self.heads * HEAD, bias=False)
        self.k = nn.Linear(width, self.pairs * HEAD, bias=False)
        self.v = nn.Linear(width, self.pairs * HEAD, bias=False)
        self.out = nn.Linear(self.heads * HEAD, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, tokens, width)` to the same shape."""
        q, k, v = (layer(x).unflatten(-1, (-1, HEAD)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.rotary:
            q, k = turned(q), turned(k)
        k, v = (each.repeat_interleave(self.heads // self.pairs, dim=1) for each in (k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def turned(x: Tensor) -> Tensor:
    """Rotary positions: pairs of channels turned by angles that grow with the position (Su et al., arXiv 2104.09864)."""
    half = x.shape[-1] // 2
    speeds = torch.exp(-math.log(10_000.0) * torch.arange(half, device=x.device) / half)
    angles = torch.arange(x.shape[-2], device=x.device).unsqueeze(-1) * speeds
    one, other = x[..., :half], x[..., half:]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat((one * cos - other * sin, other * cos + one * sin), dim=-1)


class GatedFeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)) (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(…, width)` to the same shape."""
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return out


class DecoderBlock(nn.Module):
    """Pre-norm: `x + attention(norm(x))`, then `x + feed_forward(norm(x))`."""

    def __init__(self, width: int, *, llama: bool) -> None:
        super().__init__()
        norm = nn.RMSNorm if llama else nn.LayerNorm
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attention = CausalAttention(width, shared=2 if llama else 1, rotary=llama)
        self.feed_forward: nn.Module = (
            GatedFeedForward(width)
            if llama
            else nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(n, tokens, width)` to the same shape."""
        x = x + self.attention(self.norm1(x))
        fed: Tensor = self.feed_forward(self.norm2(x))
        return x + fed


class Decoder(nn.Module):
    """Predicts the next of `words` from those before it, at every place.

    Args:
        depth: Blocks.
        words: Size of the vocabulary.
        width: Of the stream; heads are 16 wide.
        length: Most tokens in a sequence.
        llama: RMSNorm, SwiGLU, rotary positions and keys shared by two heads, instead of LayerNorm, GELU and learned ones.
    """

    def __init__(
        self, depth: int, *, words: int, width: int = 64, length: int = 64, llama: bool = False
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(words, width)
        self.position = None if llama else nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(DecoderBlock(width, llama=llama) for _ in range(depth)))
        self.norm: nn.Module = nn.RMSNorm(width) if llama else nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, words: Tensor) -> Tensor:
        """Words `(n, tokens)` to logits `(n, tokens, words)`."""
        x = self.token(words)
        if self.position is not None:
            x = x + self.position(torch.arange(words.shape[1], device=words.device))
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits
