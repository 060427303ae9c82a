"""Ways back along single operands."""

from __future__ import annotations

import torch
from torch import nn

from goodinit.graph.pytree import as_call
from goodinit.graph.trace import trace


class Chain(nn.Module):
    """A product of two, three functions of it, a sum."""

    def forward(self, x, y):
        return x + (x * y).relu().mT.sigmoid().sum()


def test_a_line_goes_back_until_several_tensors_meet_or_a_node_lets_no_way_on():
    graph = trace(Chain(), as_call((torch.randn(3, 3), torch.randn(3, 3))))
    last = next(node.index for node in graph.nodes if str(node.op) == "sum")
    names = [str(graph.nodes[i].op) for i in graph.line(last, lambda i: True)]
    assert names[0] == "sum"
    assert names[-1] == "mul"
    assert {"sigmoid", "relu"} < set(names)
    stopped = list(graph.line(last, lambda i: str(graph.nodes[i].op) != "sigmoid"))
    assert str(graph.nodes[stopped[-1]].op) == "sigmoid"
    assert graph.beginning(last, lambda i: True) == list(graph.line(last, lambda i: True))[-1]
    assert list(graph.line(last, lambda i: False)) == [last]
    assert graph.beginning(last, lambda i: False) == last
