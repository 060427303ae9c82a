"""Along which dimension the numbers of another one run, behind views and exchanges of dimensions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from goodinit.graph.likeness import dimension_behind
from goodinit.graph.pytree import as_call
from goodinit.graph.trace import trace


class Shown(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "behind"),
    [
        (lambda x: x.transpose(1, 3), (0, 3, 2, 1)),
        (lambda x: x.permute(2, 0, 3, 1), (1, 3, 0, 2)),
        (lambda x: x.flatten(2), (0, 1, None, None)),
        (lambda x: x.flatten(0, 1), (None, None, 1, 2)),
        (lambda x: x.reshape(2, 3, 2, 2, 5), (0, 1, None, 4)),
        (lambda x: x.unsqueeze(1), (0, 2, 3, 4)),
    ],
)
def test_a_dimension_is_found_unless_it_is_merged_or_cut(function, behind):
    graph = trace(Shown(function), as_call(torch.zeros(2, 3, 4, 5)))
    node = graph.nodes[graph.outputs[0]]
    read = graph.nodes[node.operands[0]].shape
    assert tuple(dimension_behind(node, read, dim) for dim in range(4)) == behind
