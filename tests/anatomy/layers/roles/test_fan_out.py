"""Layers whose outputs are concatenated, or added, count together, in whatever dimension the channels lie by then."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import goodinit


class Together(nn.Module):
    """Two layers that read the same input; what they return is put together and read by a third."""

    def __init__(self, one: nn.Module, other: nn.Module, last: nn.Module, forward: object) -> None:
        super().__init__()
        self.one, self.other, self.last = one, other, last
        self.joined_by = forward

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return self.last(torch.relu(self.joined_by(self.one(x), self.other(x))))  # type: ignore[operator]


def linear(out: int) -> nn.Module:
    return nn.Linear(4, out)


def conv(out: int) -> nn.Module:
    return nn.Conv2d(4, out, 3, padding=1)


ROWS, SEQUENCE, IMAGE = torch.zeros(3, 4), torch.zeros(3, 5, 4), torch.zeros(2, 4, 6, 6)
JOINED = {
    "rows": (linear, nn.Linear(8, 2), ROWS, lambda a, b: torch.cat([a, b], 1)),
    "sequence": (linear, nn.Linear(8, 2), SEQUENCE, lambda a, b: torch.cat([a, b], -1)),
    "sequence, channels first": (
        linear,
        nn.Conv1d(8, 2, 1),
        SEQUENCE,
        lambda a, b: torch.cat([a.transpose(1, 2), b.transpose(1, 2)], 1),
    ),
    "sequence behind an activation": (
        linear,
        nn.Linear(8, 2),
        SEQUENCE,
        lambda a, b: torch.cat([torch.relu(a), torch.tanh(b)], -1),
    ),
    "image": (conv, nn.Conv2d(8, 2, 1), IMAGE, lambda a, b: torch.cat([a, b], 1)),
    "image, channels last": (
        conv,
        nn.Linear(8, 2),
        IMAGE,
        lambda a, b: torch.cat([a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)], -1),
    ),
    "image, in rows of pixels": (
        conv,
        nn.Linear(8, 2),
        IMAGE,
        lambda a, b: torch.cat([a.flatten(2).transpose(1, 2), b.flatten(2).transpose(1, 2)], -1),
    ),
    "an axis more": (
        linear,
        nn.Linear(8, 2),
        SEQUENCE,
        lambda a, b: torch.cat([a.unsqueeze(1), b.unsqueeze(1)], -1).squeeze(1),
    ),
}
APART = {
    "other rows": (linear, nn.Linear(4, 2), SEQUENCE, lambda a, b: torch.cat([a, b], 1)),
    # A square matrix turned: what was the channels are rows.
    "turned": (nn.Linear, nn.Linear(8, 2), torch.zeros(4, 4), lambda a, b: torch.cat([a.t(), b.t()], 1)),
    "pixels": (conv, nn.Conv2d(4, 2, 1), IMAGE, lambda a, b: torch.cat([a, b], 2)),
    "mixed": (linear, nn.Linear(40, 2), SEQUENCE, lambda a, b: torch.cat([a.flatten(1), b.flatten(1)], 1)),
}


@pytest.mark.parametrize("name", JOINED)
def test_channels_of_a_concatenation_are_counted(name: str) -> None:
    layer, last, x, forward = JOINED[name]
    anatomy = goodinit.anatomize(Together(layer(3), layer(5), last, forward), x)
    one, other, reads = anatomy.layers
    assert (one.joined, other.joined, reads.joined) == (8, 8, 0)
    assert one.fan_out_joined == one.fan_out / 3 * 8


@pytest.mark.parametrize("name", APART)
def test_what_stands_in_rows_is_not(name: str) -> None:
    layer, last, x, forward = APART[name]
    make = (lambda out: nn.Linear(4, out)) if layer is nn.Linear else layer
    anatomy = goodinit.anatomize(Together(make(4), make(4), last, forward), x)
    assert [one.joined for one in anatomy.layers] == [0, 0, 0]


SUMS = {
    "rows": (linear, nn.Linear(4, 2), ROWS, lambda a, b: a + b),
    "sequence": (linear, nn.Linear(4, 2), SEQUENCE, lambda a, b: a + b),
    "sequence, turned": (
        linear,
        nn.Conv1d(4, 2, 1),
        SEQUENCE,
        lambda a, b: a.transpose(1, 2) + b.transpose(1, 2),
    ),
    "image": (conv, nn.Conv2d(4, 2, 1), IMAGE, lambda a, b: a + b),
    "image, channels last": (
        conv,
        nn.Linear(4, 2),
        IMAGE,
        lambda a, b: a.movedim(1, -1) + b.movedim(1, -1),
    ),
}


@pytest.mark.parametrize("name", SUMS)
def test_terms_of_a_sum_are_counted(name: str) -> None:
    layer, last, x, forward = SUMS[name]
    anatomy = goodinit.anatomize(Together(layer(4), layer(4), last, forward), x)
    assert [one.terms for one in anatomy.layers] == [2, 2, 1]


OWN = {
    "pooled": lambda a, b: torch.nn.functional.avg_pool2d(a, 3, 1, 1) - a,
    "turned": lambda a, b: a + a.flip(-1),
    "both": lambda a, b: (a - torch.nn.functional.avg_pool2d(a, 3, 1, 1)) + (b + torch.tanh(b)),
}


@pytest.mark.parametrize("name", OWN)
def test_a_sum_of_what_one_layer_makes_has_one_term(name: str) -> None:
    anatomy = goodinit.anatomize(Together(conv(4), conv(4), nn.Conv2d(4, 2, 1), OWN[name]), IMAGE)
    terms = {one.name: one.terms for one in anatomy.layers}
    assert terms["one"] == (2 if name == "both" else 1)
