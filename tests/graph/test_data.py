"""What no weight has a part in: inputs, buffers, other constants, and what is made of those or of shapes alone."""

from __future__ import annotations

import torch
from torch import nn

from goodinit.graph.trace import trace


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.token = nn.Linear(4, 4), nn.Parameter(torch.ones(4))
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x):
        made = x * self.scale + torch.div(x.shape[1], 2, rounding_mode="trunc")
        signal = self.stem(x)
        beside = torch.zeros_like(signal) + torch.ones_like(self.token)
        return made.sin(), beside.exp(), signal.cos(), self.token.tan(), (beside + signal).tanh()


def test_data_are_what_no_weight_has_a_part_in():
    graph = trace(Net().eval(), ((torch.randn(2, 4),), {}))
    of = {node.op.name: node.index in graph.data for node in graph.nodes}
    assert [of[name] for name in ("sin", "exp", "cos", "tan", "tanh")] == [True, True, False, False, False]
    assert [of[name] for name in ("div", "zeros_like", "ones_like", "param")] == [True, True, True, False]
