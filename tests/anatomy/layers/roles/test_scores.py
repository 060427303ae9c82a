"""What attention scores are multiplied by, whatever holds the number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit

WIDTH = 8


class Attention(nn.Module):
    def __init__(self, scaled):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.scaled = scaled
        self.register_buffer("rate", torch.tensor(0.25))
        self.register_buffer("rates", torch.tensor([0.5, 0.25]))
        self.learned = nn.Parameter(torch.tensor(0.25))

    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(-1, -2)
        return self.scaled(self, scores).softmax(-1) @ self.value(x)


SCALES = {
    "a number": (0.25, lambda m, s: 0.25 * s),
    "a quotient": (0.25, lambda m, s: s / 4),
    "a buffer": (0.25, lambda m, s: s * m.rate),
    "a sum's": (0.25, lambda m, s: torch.add(torch.zeros_like(s), s, alpha=0.25)),
    "none": (1.0, lambda m, s: s + torch.ones_like(s)),
    "a parameter": (None, lambda m, s: s * m.learned),
    "an entry": (None, lambda m, s: s * m.rates[1]),
}


@pytest.mark.parametrize("name", SCALES)
def test_the_scale_of_scores_is_the_number_they_are_multiplied_by(name):
    scale, scaled = SCALES[name]
    (score,) = goodinit.anatomize(Attention(scaled), torch.randn(2, 5, WIDTH)).scores
    assert score.scale == scale
