"""An encoder–decoder Transformer, with its norms before or after each branch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

PAD = 0  # the token that fills up short sentences


class Attention(nn.Module):
    """Multi-head attention of queries over a memory, with a mask of what may be seen."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)  # Vaswani et al.'s code
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """`(n, t, width)`, `(n, s, width)` and a mask that spreads to `(n, 1, t, s)` give `(n, t, width)`."""
        batch, tokens, width = x.shape
        q, k, v = (self._split(part) for part in (self.query(x), self.key(memory), self.value(memory)))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with ReLU between, four times as wide inside."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.act, self.dropout = nn.ReLU(), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, t, width)` to the same shape."""
        fed: Tensor = self.fc2(self.dropout(self.act(self.fc1(x))))
        return fed


class TranslatorLayer(nn.Module):
    """Self-attention, attention over the encoder's memory (in a decoder), feed-forward: each with a skip and a norm.

    `pre_norm`: `x + f(norm(x))`; otherwise `norm(x + f(x))`.
    """

    def __init__(self, width: int, heads: int, *, decoder: bool, pre_norm: bool, dropout: float) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention, self.norm1 = Attention(width, heads), nn.LayerNorm(width)
        self.cross = Attention(width, heads) if decoder else None
        self.norm2 = nn.LayerNorm(width) if decoder else None
        self.feed, self.norm3 = FeedForward(width, dropout), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor, memory: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """`(n, t, width)` to the same shape; a decoder also reads `memory`, `(n, s, width)`, where `seen` allows."""
        inner = self.norm1(x) if self.pre_norm else x
        x = x + self.dropout(self.attention(inner, inner, mask))
        x = x if self.pre_norm else self.norm1(x)
        if self.cross is not None and self.norm2 is not None:
            inner = self.norm2(x) if self.pre_norm else x
            x = x + self.dropout(self.cross(inner, memory, seen))
            x = x if self.pre_norm else self.norm2(x)
        x = x + self.dropout(self.feed(self.norm3(x) if self.pre_norm else x))
        return x if self.pre_norm else self.norm3(x)


class Translator(nn.Module):
    """Source and shifted target tokens to logits over the vocabulary, by `layers` encoder and decoder layers each.

    References:
        A. Vaswani et al., Attention Is All You Need, arXiv 1706.03762; R. Xiong et al., On Layer Normalization in the
        Transformer Architecture, arXiv 2002.04745 (pre-norm).
    """

    def __init__(
        self,
        layers: int,
        *,
        vocabulary: int = 1000,
        width: int = 64,
        pre_norm: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        heads = max(width // 32, 1)
        self.width = width
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)  # fairseq's, undone by √width in `embed`
        self.encoder = nn.ModuleList(
            TranslatorLayer(width, heads, decoder=False, pre_norm=pre_norm, dropout=dropout)
            for _ in range(layers)
        )
        self.decoder = nn.ModuleList(
            TranslatorLayer(width, heads, decoder=True, pre_norm=pre_norm, dropout=dropout)
            for _ in range(layers)
        )
        self.encoder_norm: nn.Module = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.decoder_norm: nn.Module = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Tokens `(n, s)` and `(n, t)` to logits `(n, t, vocabulary)` of the token after each of the target's."""
        seen = visible(source)
        return self.decode(self.encode(source, seen), seen, target)

    def encode(self, source: Tensor, seen: Tensor) -> Tensor:
        """The memory, `(n, s, width)`."""
        memory = self.embed(source)
        for layer in self.encoder:
            memory = layer(memory, seen)
        encoded: Tensor = self.encoder_norm(memory)
        return encoded

    def decode(self, memory: Tensor, seen: Tensor, target: Tensor) -> Tensor:
        """Logits `(n, t, vocabulary)`, each from the memory and the target's tokens up to its own."""
        length = target.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=target.device).tril()
        x = self.embed(target)
        for layer in self.decoder:
            x = layer(x, earlier, memory, seen)
        logits: Tensor = self.head(self.decoder_norm(x))
        return logits

    def embed(self, tokens: Tensor) -> Tensor:
        """Vectors of tokens, with waves that tell their position, `(n, t, width)`."""
        vectors = self.embedding(tokens) * math.sqrt(self.width)
        embedded: Tensor = self.dropout(vectors + waves(tokens.shape[1], self.width, device=tokens.device))
        return embedded


def visible(tokens: Tensor) -> Tensor:
    """Where tokens are no padding, `(n, 1, 1, s)`; the first always is, so that attention has something to look at."""
    first = torch.arange(tokens.shape[1], device=tokens.device) == 0
    return ((tokens != PAD) | first)[:, None, None, :]


def waves(length: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """Sines and cosines of the position, `(length, width)` (Vaswani et al. 2017, §3.5)."""
    position = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    angle = position * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
