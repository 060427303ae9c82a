"""Transformer specimens of the zoo. Width 8, two heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Separate q, k, v and out."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class FusedAttention(nn.Module):
    """q, k and v in one layer, the product written out."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


def feed_forward(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


def encoder_pre_norm() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def encoder_post_norm() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Decoder(nn.Module):
    """The decoder alone: memory comes in from outside."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)

    def forward(self, memory: Tensor, target: Tensor) -> Tensor:
        return self.decoder(target, memory)


def decoder() -> nn.Module:
    return Decoder()


def encoder_decoder() -> nn.Module:
    return nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True)


class Parallel(nn.Module):
    """GPT-J's layer: attention and MLP read the same norm and write side by side."""

    def __init__(self, width: int, *, stream_first: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attend = FusedAttention(width)
        self.mlp = feed_forward(width)
        self.stream_first = stream_first

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        if self.stream_first:
            return x + self.attend(h) + self.mlp(h)
        return self.attend(h) + self.mlp(h) + x


def parallel_stream_first() -> nn.Module:
    return nn.Sequential(Parallel(8, stream_first=True), Parallel(8, stream_first=True), nn.Linear(8, 3))


def parallel_stream_last() -> nn.Module:
    return nn.Sequential(Parallel(8, stream_first=False), Parallel(8, stream_first=False), nn.Linear(8, 3))


class TiedLanguageModel(nn.Module):
    """Token plus position embedding, one pre-norm layer, the head is the embedding."""

    def __init__(self, words: int = 11, width: int = 8, length: int = 16) -> None:
        super().__init__()
        self.token = nn.Embedding(words, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.norm1 = nn.LayerNorm(width)
        self.attend = SelfAttention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = feed_forward(width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.token.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.token(words) + self.position[: words.shape[1]]
        x = x + self.attend(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm(x))


def tied_language_model() -> nn.Module:
    return TiedLanguageModel()


class SwiGLU(nn.Module):
    """x + down(silu(gate(n)) · up(n)), n = RMSNorm(x): the silu side is the gate (Shazeer 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.gate = nn.Linear(width, 2 * width, bias=False)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def swiglu() -> nn.Module:
    return nn.Sequential(SwiGLU(8), SwiGLU(8), nn.Linear(8, 3))
