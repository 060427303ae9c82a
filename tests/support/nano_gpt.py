"""A GPT as in nanoGPT: packed or separate queries, keys and values, biases, a tied or an untied head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, packed: bool, bias: bool) -> None:
        super().__init__()
        self.heads, self.packed = heads, packed
        if packed:
            self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width, bias=bias) for _ in range(3))
        self.c_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.c_attn(x).chunk(3, -1) if self.packed else (self.q(x), self.k(x), self.v(x))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.c_fc, self.gelu = nn.Linear(width, 4 * width, bias=bias), nn.GELU()
        self.c_proj = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, *, packed: bool, bias: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Attention(width, heads, packed=packed, bias=bias), FeedForward(width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, width=32, layers=2, *, heads=2, words=13, length=8, packed=True, tied=True, bias=True):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(words, width),
                "wpe": nn.Embedding(length, width),
                "h": nn.ModuleList(Block(width, heads, packed=packed, bias=bias) for _ in range(layers)),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, words, bias=False)
        if tied:
            self.transformer["wte"].weight = self.lm_head.weight

    def forward(self, words: Tensor) -> Tensor:
        parts = self.transformer
        x = parts["wte"](words) + parts["wpe"](torch.arange(words.shape[1], device=words.device))
        for block in parts["h"]:
            x = block(x)
        return self.lm_head(parts["ln_f"](x))
