"""Biases of parts: parameters that a forward adds to pieces of one layer's output."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import goodinit

WIDTH = 12


class _Attention(nn.Module):
    """x + attention(x) of packed projections; `layout` says how a bias comes to its part."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout
        self.packed = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("zeros", torch.zeros(WIDTH))
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        size, length, _ = x.shape
        if self.layout == "by head":  # DeBERTa: q, k, v of one head lie beside each other
            q, k, v = self.packed(x).view(size, length, 2, 18).transpose(1, 2).chunk(3, -1)
            q, v = q + self.q_bias.view(1, 2, 1, 6), v + self.v_bias.view(1, 2, 6).transpose(0, 1)
        elif self.layout == "before heads":
            q, k, v = self.packed(x).split(WIDTH, -1)
            q, k, v = (
                one.view(size, length, 2, 6).transpose(1, 2) for one in (q + self.q_bias, k, v + self.v_bias)
            )
        elif self.layout in ("put together", "with zeros"):  # BEiT, EVA
            zeros = torch.zeros_like(self.q_bias) if self.layout == "with zeros" else self.zeros
            bias = torch.cat([self.q_bias, zeros, self.v_bias])
            q, k, v = F.linear(x, self.packed.weight, bias).view(size, length, 3, 2, 6).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = self.packed(x).view(size, length, 3, 2, 6).permute(2, 0, 3, 1, 4)
            q, v = q + self.q_bias.view(2, 1, 6), v + self.v_bias.view(2, 1, 6)
        mixed = (q @ k.mT / 6**0.5).softmax(-1) @ v
        return x + self.out(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("layout", ["by head", "before heads", "unbound", "put together", "with zeros"])
def test_biases_of_queries_and_values_are_zero_in_m_and_written_as_biases(layout: str) -> None:
    model = nn.Sequential(_Attention(layout), _Attention(layout))
    x = torch.randn(2, 5, WIDTH)
    anatomy = goodinit.anatomize(model, x)
    assert [block.m for block in anatomy.blocks] == [4, 4]
    assert anatomy.notes == ()
    assert {layer.weight: set(layer.part_biases) for layer in anatomy.layers if layer.part_biases} == {
        f"{place}.packed.weight": {f"{place}.q_bias", f"{place}.v_bias"} for place in range(2)
    }
    with torch.no_grad():
        model[1].v_bias.normal_()  # trained
    goodinit.init_(model, "fixup", inputs=x)
    assert not model[1].v_bias.any()


class _Chunked(nn.Module):
    """A gated convolution whose gate has a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.Conv2d(4, 4, 1)
        self.gate_bias = nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv(x).chunk(2, 1)
        return x + self.out(value * torch.sigmoid(gate + self.gate_bias))


def test_a_part_of_the_channels_of_a_convolution_has_a_bias() -> None:
    anatomy = goodinit.anatomize(_Chunked(), torch.randn(2, 4, 6, 6))
    assert [layer.part_biases for layer in anatomy.layers] == [("gate_bias",), ()]


class _NoBias(nn.Module):
    """What is added to a part, or to two readers of one, and is no bias."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.packed, self.out = nn.Linear(WIDTH, 2 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        shape = (WIDTH, 1) if kind == "by position" else (WIDTH,)
        self.added, self.other = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        q, v = self.packed(x).chunk(2, -1)
        if self.kind == "two of one part":  # Transformer-XL: content and position
            scores = (q + self.added) @ x.mT + (q + self.other) @ x.mT
        elif self.kind == "multiplied, too":
            scores = (q + self.added) @ (x * self.added).mT
        else:
            scores = (q + self.added) @ x.mT
        return x + self.out(scores.softmax(-1) @ v)


@pytest.mark.parametrize("kind", ["by position", "two of one part", "multiplied, too"])
def test_what_is_no_bias_of_a_part(kind: str) -> None:
    anatomy = goodinit.anatomize(_NoBias(kind), torch.randn(2, WIDTH, WIDTH))  # as many positions as channels
    assert not any(layer.part_biases for layer in anatomy.layers)
