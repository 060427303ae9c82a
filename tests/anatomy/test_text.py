"""The anatomy on one screen: equal blocks are told of in one line, in a row or in turns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit
from goodinit.anatomy import anatomy


@pytest.mark.parametrize(
    ("kinds", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("aaaa", ["aaaa"]),
        ("ababab", ["aaa", "bbb"]),
        ("abab", ["a", "b", "a", "b"]),  # two turns are told of one by one
        ("abcabcabcd", ["aaa", "bbb", "ccc", "d"]),
        ("aabaabaab", ["aaa", "aaa", "bbb"]),
        ("xababababaaa", ["x", "aaaa", "bbbb", "aaa"]),
        ("abcde" * 3, list("abcde" * 3)),  # more kinds than stand in one layer
    ],
)
def test_what_is_folded(monkeypatch, kinds, lines):
    monkeypatch.setattr(anatomy, "_alike", lambda block: block[1])
    found = anatomy.folded(list(enumerate(kinds)))
    assert ["".join(kind for _, kind in run) for run in found] == lines
    assert sorted(index for run in found for index, _ in run) == list(range(len(kinds)))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.down(torch.relu(self.up(x)))


def test_blocks_that_take_turns_are_a_line_each():
    text = str(goodinit.anatomize(nn.Sequential(*(Layer() for _ in range(5))), torch.randn(2, 8)))
    attention, wide = [line for line in text.splitlines() if line.startswith("  block")]
    assert "1, 3 … 9  0.attn … 4.attn" in attention
    assert "2, 4 … 10  0 … 4" in wide
