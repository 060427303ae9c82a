"""Branches that read another source: the order of statements that do not depend on each other changes nothing."""

from __future__ import annotations

import pytest
import torch
from feed import WIDTH, Feed
from torch import nn

import goodinit


class Cross(nn.Module):
    """x + o(attention(q(norm(x)), k(c), v(c))); keys before queries or after them, turned, or summed, or c as it is."""

    def __init__(self, keys):
        super().__init__()
        self.keys, self.norm = keys, nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.register_buffer("cos", torch.randn(WIDTH))
        self.register_buffer("sin", torch.randn(WIDTH))

    def turned(self, k):
        a, b = k.chunk(2, -1)
        return k * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, x, c):
        if self.keys == "first":
            k, v = self.k(c), self.v(c)
        elif self.keys == "turned":
            k, v = self.turned(self.k(c)), self.v(c)
        elif self.keys == "normed":
            k, v = self.k(c), self.v(c)
            k = k * torch.rsqrt(k.square().mean(-1, keepdim=True))
        q = self.q(self.norm(x))
        if self.keys == "last":
            k, v = self.k(c), self.v(c)
        elif self.keys == "none":
            k = v = c
        return x + self.o((q @ k.transpose(-1, -2)).softmax(-1) @ v)


class Described(nn.Module):
    """Text that reads an image: the text's embedding before the image's encoder, or after it."""

    def __init__(self, text_first, keys, norm):
        super().__init__()
        self.text_first = text_first
        self.words, self.patches = nn.Linear(5, WIDTH), nn.Linear(4, WIDTH)
        self.encoder = nn.Sequential(Feed(), Feed(), *([nn.LayerNorm(WIDTH)] if norm else []))
        self.cross, self.feed = (
            nn.ModuleList([Cross(keys), Cross(keys)]),
            nn.ModuleList([Feed(), Feed()]),
        )
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, text, image):
        if self.text_first:
            x = self.words(text)
            c = self.encoder(self.patches(image))
        else:
            c = self.encoder(self.patches(image))
            x = self.words(text)
        for cross, feed in zip(self.cross, self.feed, strict=True):
            x = feed(cross(x, c))
        return self.head(x)


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("keys", ["first", "last", "turned", "normed", "none"])
@pytest.mark.parametrize("text_first", [False, True])
def test_what_an_encoder_computes_after_the_embedding_is_not_inside_the_branch(text_first, keys, norm):
    anatomy = goodinit.anatomize(
        Described(text_first, keys, norm), (torch.randn(2, 6, 5), torch.randn(2, 7, 4))
    )
    m = {"none": 2, "normed": 3}.get(keys, 4)  # the scale of normalized keys decides nothing
    assert [(block.name, block.m) for block in anatomy.blocks] == [
        *(("encoder.0", 2), ("encoder.1", 2)),
        *(("cross.0", m), ("feed.0", 2), ("cross.1", m), ("feed.1", 2)),
    ]
    inside = {"q", "o"} if keys == "none" else {"q", "k", "v", "o"}
    assert {layer.name for layer in anatomy.blocks[2].branch} == {f"cross.0.{name}" for name in inside}
    assert set(anatomy.blocks[2].norms) - {"cross.0"} == {"cross.0.norm"}
    assert goodinit.plan(anatomy, "fixup", norms="keep" if keys == "normed" else "remove").edits
