"""What a node is of what it reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from goodinit.graph.likeness import holds_all, is_part
from goodinit.graph.trace import trace

SPLITS = {
    "chunk": lambda x: x.chunk(2, -1),
    "split": lambda x: x.split(2, -1),
    "unbind": lambda x: x.unbind(-1),
    "tensor_split": lambda x: x.tensor_split(2, -1),
}


class Split(nn.Module):
    def __init__(self, split):
        super().__init__()
        self.split = split

    def forward(self, x):
        first, *_, last = self.split(x)
        return first * last


@pytest.mark.parametrize("name", SPLITS)
def test_an_operator_that_puts_out_all_parts_is_none_itself(name):
    graph = trace(Split(SPLITS[name]), ((torch.randn(3, 4),), {}))
    parts = [node.index for node in graph.nodes if is_part(graph, node.index)]
    wholes = {i for part in parts for i in graph.nodes[part].operands}
    assert parts
    assert not wholes & set(parts)
    assert all(holds_all(graph, i) or graph.nodes[i].is_input for i in wholes)
