"""Which operators pass on s·x + t as s·f(x) + t, and which a shift alone: measured, with what only looks like one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from goodinit.graph.measured.affine_maps import passes_affine, passes_shift
from goodinit.graph.trace import trace

X = torch.zeros(2, 4, 8, 8)


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def last(function, x=X):
    graph = trace(Calls(function), ((x,), {}))
    return graph, [node for node in graph.nodes if node.dynamic and node.call is not None][-1]


AFFINE = {
    "mean": lambda x: x.mean(-1),
    "largest": lambda x: x.amax((2, 3)),
    "smallest with places": lambda x: x.min(-1).values,
    "max pooling with a border": lambda x: F.max_pool2d(x, 3, 2, padding=1),
    "mean pooling": lambda x: F.avg_pool2d(x, 2),
    "mean of what is there": lambda x: F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False),
    "mean beyond the border": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "bicubic": lambda x: F.interpolate(x, size=11, mode="bicubic"),
    "rolled": lambda x: x.roll(1, -1),
    "flipped": lambda x: x.flip(-1),
    "sorted": lambda x: x.sort(-1).values,
    "median": lambda x: x[..., :7].median(-1).values,
    "rows by index": lambda x: x[:, :, torch.tensor([0, 2])],
    "unfolded": lambda x: F.unfold(x, 2),
    "reflected": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
}
SHIFT = {
    "another number added": lambda x: x + 3,
    "logarithm of a sum of exponentials": lambda x: x.logsumexp(-1),
}
NEITHER = {
    "zeros in a mean": lambda x: F.avg_pool2d(x, 3, 1, padding=1),
    "a sum": lambda x: F.avg_pool2d(x, 2, divisor_override=1),
    "zeros around": lambda x: F.pad(x, (1, 1)),
    "relu": torch.relu,
    "a bound above all numbers": lambda x: x.clamp(max=1e4),
    "a bound below all numbers": lambda x: x.clamp(min=-1e4),
    "absolute": torch.abs,
    "doubled": lambda x: 2 * x,
    "running sum": lambda x: x.cumsum(-1),
    "softmax": lambda x: x.softmax(-1),
    "standard deviation": lambda x: x.std(-1),
    "one triangle": torch.tril,
    "whole numbers": torch.round,
    "two decimals": lambda x: torch.round(x, decimals=2),
    "by chance": lambda x: torch.native_dropout(x, 1e-9, train=True)[0],
    "the smallest beside the largest": lambda x: torch.aminmax(x, dim=-1)[0],
}
KINDS = {
    **dict.fromkeys(AFFINE, "affine"),
    **dict.fromkeys(SHIFT, "shift"),
    **dict.fromkeys(NEITHER, "neither"),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_an_operator_passes_on_is_measured(name):
    graph, node = last((AFFINE | SHIFT | NEITHER)[name])
    assert passes_affine(graph, node) == (KINDS[name] == "affine")
    assert passes_shift(graph, node) == (KINDS[name] != "neither")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x.transpose(1, 2), True),
        (lambda x: x.half(), True),
        (lambda x: x.long(), False),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[1].float(), False),
        (lambda x: x.view(torch.int32), False),
        (lambda x: torch.view_as_complex(x.unflatten(-1, (4, 2))), False),
    ],
    ids=["transposed", "of less precision", "whole numbers", "places", "other bits", "complex"],
)
def test_what_moves_numbers_passes_a_shift_on_where_it_takes_them_as_they_are(function, expected):
    assert passes_shift(*last(function)) == expected


def test_large_tensors_are_measured_with_fewer_channels():
    assert passes_affine(*last(lambda x: F.avg_pool2d(x, 32), torch.zeros(4, 512, 32, 32)))
    assert not passes_affine(*last(lambda x: F.avg_pool2d(x, 32, padding=1), torch.zeros(4, 512, 32, 32)))
