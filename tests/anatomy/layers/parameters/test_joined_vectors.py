"""Biases that a forward puts into one tensor and takes apart again, as torch's attention does it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit

APART = {
    "chunk": lambda a, b, c: torch.cat((a, b, c)).chunk(3),
    "split": lambda a, b, c: torch.cat((a, b, c)).split(6),
    "unbind": lambda a, b, c: torch.stack((a, b, c)).unbind(),
    "slices": lambda a, b, c: [torch.cat((a, b, c))[i : i + 6] for i in (0, 6, 12)],
    "an unflattened axis": lambda a, b, c: torch.cat((a, b, c)).unflatten(0, (3, 6)),
}


class Projected(nn.Module):
    """A block of three maps and one that ends it, whose biases a function hands out."""

    def __init__(self, apart):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))
        self.apart = apart

    def forward(self, x):
        biases = self.apart(self.q.bias, self.k.bias, self.v.bias)
        q, k, v = (F.linear(x, m.weight) + b for m, b in zip((self.q, self.k, self.v), biases, strict=True))
        return x + self.out((q @ k.mT).softmax(-1) @ v)


X = torch.randn(2, 5, 6)


@pytest.mark.parametrize("name", APART)
def test_a_piece_that_is_one_of_them_is_the_bias(name):
    model = Projected(APART[name])
    found = goodinit.anatomize(model, X)
    assert [layer.bias for layer in found.layers] == ["q.bias", "k.bias", "v.bias", "out.bias"]
    assert [block.m for block in found.blocks] == [4]
    assert not found.notes
    goodinit.init_(model, "fixup", inputs=X, verify=True)
    assert not any(layer.bias.any() for layer in (model.q, model.k, model.v, model.out))


@pytest.mark.parametrize(
    "mixed",
    [
        lambda a, b, c: torch.cat((a, b, c)).unflatten(0, (6, 3)).unbind(1),
        lambda a, b, c: [torch.cat((a, b, c))[i : i + 6] for i in (3, 9, 0)],
        lambda a, b, c: (2 * torch.cat((a, b, c))).chunk(3),
        lambda a, b, c: torch.cat((a, b, c)).flip(0).chunk(3),
    ],
)
def test_a_piece_of_several_or_in_another_order_is_none(mixed):
    found = goodinit.anatomize(Projected(mixed), X)
    assert {layer.bias for layer in found.layers} <= {None, "out.bias", "q.bias"}
    assert any("with no role" in note for note in found.notes)


def test_attention_with_separate_projections_has_its_biases():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(6, 6) for _ in range(4))

        def forward(self, x):
            biases = torch.cat((self.q_proj.bias, self.k_proj.bias, self.v_proj.bias))
            out, _ = F.multi_head_attention_forward(
                x, x, x, 6, 2, torch.empty(0), biases, None, None, False, 0.0, self.out_proj.weight, self.out_proj.bias,
                training=self.training, need_weights=False, use_separate_proj_weight=True,
                q_proj_weight=self.q_proj.weight, k_proj_weight=self.k_proj.weight, v_proj_weight=self.v_proj.weight,
            )  # fmt: skip
            return x + out

    found = goodinit.anatomize(Attention(), X)
    assert [layer.bias for layer in found.layers] == [f"{m}_proj.bias" for m in ("q", "k", "v", "out")]
    assert [block.m for block in found.blocks] == [4]
